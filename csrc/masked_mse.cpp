// masked_mse for CPU tensors: loss and residual of one masked patch at a time, straight from the image.
//
//   residual = pred - target,   loss = mean over (b, k, i) of residual[b, k, i]^2
//   d(pred) = 2 residual d(loss) / count; the backward applies the scale, since 1 / count underflows in float16
//
// target is the patch ids[b, k] of image b in (y, x, c) order (patches.h), brought to zero mean and unit unbiased
// variance when norm_pix is set. A patch (P = p*p*C numbers, 3 KB at 16 px) stays in cache between its uses. Each
// row's sum is kept apart and the rows are added in order, so that the result does not depend on the number of threads.

#include "ids.h"
#include "patches.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <vector>

namespace mae_fast {
namespace {

constexpr int64_t GRAIN = 16;  // patches worth handing to another thread

// Sum of f(x[0]) .. f(x[n - 1]), as many partial sums as a vector has lanes.
template <typename acc_t, typename F>
acc_t sum_of(const F& f, const acc_t* x, int64_t n) {
  return at::vec::map_reduce_all<acc_t>(f, [](auto a, auto b) { return a + b; }, x, n);
}

template <typename acc_t>
void normalize_patch(acc_t* x, int64_t P) {
  using Vec = at::vec::Vectorized<acc_t>;
  for (int pass = 0; pass < 2; ++pass) {  // the second for what rounding left: a flat patch is divided by 1e-3
    const acc_t mean = sum_of([](Vec v) { return v; }, x, P) / P;
    at::vec::map<acc_t>([mean](Vec v) { return v - Vec(mean); }, x, x, P);
  }
  const acc_t squares = sum_of([](Vec v) { return v * v; }, x, P);
  const acc_t rstd = 1 / std::sqrt(squares / (P - 1) + acc_t(1e-6));
  at::vec::map<acc_t>([rstd](Vec v) { return v * Vec(rstd); }, x, x, P);
}

template <typename acc_t>
void run(const at::Tensor& pred, const at::Tensor& imgs, const std::vector<int64_t>& ids, int64_t K, int64_t patch,
         at::ArrayRef<double> mean, at::ArrayRef<double> std, bool norm_pix, at::Tensor& loss, at::Tensor& residual) {
  using Vec = at::vec::Vectorized<acc_t>;
  const int64_t P = pred.size(2), rows = ids.size();
  const bool all_rows = pred.size(1) != K, with_grad = residual.numel() > 0;
  const RowReader<acc_t> read_pred(pred);
  const RowWriter<acc_t> residuals(residual);
  std::vector<acc_t> row_sum(rows);
  at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
    Patches<acc_t> patches(imgs, patch, mean, std);
    std::vector<acc_t> target(P), scratch(P);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / K, id = ids[row];
      patches.read(b, id, target.data());
      if (norm_pix) normalize_patch(target.data(), P);
      const acc_t* row_pred = read_pred(b, all_rows ? id : row % K, scratch.data());
      at::vec::map2<acc_t>([](Vec p, Vec t) { return p - t; }, target.data(), row_pred, target.data(), P);
      row_sum[row] = sum_of([](Vec v) { return v * v; }, target.data(), P);
      if (with_grad) residuals.write(row, target.data());
    }
  });
  double total = 0;
  for (acc_t sum : row_sum) total += sum;
  loss.fill_(total / (static_cast<double>(rows) * P));
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> masked_mse(const at::Tensor& pred, const at::Tensor& imgs, const at::Tensor& ids,
                                              int64_t patch, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                              bool norm_pix, bool with_grad) {
  const ImageShape shape(imgs, patch, "masked_mse");
  const int64_t B = imgs.size(0);
  const std::vector<int64_t> checked = checked_ids(ids, B, shape.L, "masked_mse");
  const int64_t K = ids.size(1);
  TORCH_CHECK(pred.dim() == 3 && pred.size(0) == B && pred.size(2) == patch * patch * shape.C &&
                  (pred.size(1) == K || pred.size(1) == shape.L),
              "masked_mse: pred has shape ", pred.sizes(), " for images ", imgs.sizes(), " and ids ", ids.sizes());

  const bool is_double = pred.scalar_type() == at::kDouble || imgs.scalar_type() == at::kDouble;
  at::Tensor loss = at::empty({}, pred.options().dtype(is_double ? at::kDouble : at::kFloat));
  at::Tensor residual =
      with_grad ? at::empty({B, K, pred.size(2)}, pred.options()) : at::empty({0}, pred.options());
  (is_double ? run<double> : run<float>)(pred, imgs, checked, K, patch, mean, std, norm_pix, loss, residual);
  return {loss, residual};
}

namespace {

// k_of: which row of residual a row of grad comes from, -1 for none; empty where the rows are the same.
template <typename acc_t>
void run_backward(const at::Tensor& residual, const std::vector<int64_t>& k_of, acc_t scale, at::Tensor& grad) {
  using Vec = at::vec::Vectorized<acc_t>;
  const int64_t N = grad.size(1), P = grad.size(2);
  const RowReader<acc_t> residuals(residual);
  const RowWriter<acc_t> grads(grad);
  at::parallel_for(0, grad.size(0) * N, GRAIN, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> scratch(P);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t k = k_of.empty() ? row % N : k_of[row];
      if (k < 0) {
        grads.clear(row);
        continue;
      }
      acc_t* to = grads.place(row, scratch.data());
      at::vec::map<acc_t>([scale](Vec v) { return v * Vec(scale); }, to, residuals(row / N, k, scratch.data()), P);
      grads.write(row, to);
    }
  });
}

}  // namespace

at::Tensor masked_mse_backward(const at::Tensor& residual, const at::Tensor& ids, const at::Tensor& grad_loss,
                               int64_t num_rows) {
  TORCH_CHECK(residual.dim() == 3 && ids.dim() == 2 && residual.sizes().slice(0, 2) == ids.sizes(),
              "masked_mse_backward: residual has shape ", residual.sizes(), " and ids ", ids.sizes());
  const int64_t B = ids.size(0), K = ids.size(1);
  std::vector<int64_t> k_of;
  if (num_rows != K) k_of = k_of_patch(checked_ids(ids, B, num_rows, "masked_mse_backward"), B, K, num_rows);
  at::Tensor grad = at::empty({B, num_rows, residual.size(2)}, residual.options());
  const double scale = 2 * grad_loss.item<double>() / static_cast<double>(residual.numel());
  if (residual.scalar_type() == at::kDouble || grad_loss.scalar_type() == at::kDouble)
    run_backward<double>(residual, k_of, scale, grad);
  else
    run_backward<float>(residual, k_of, static_cast<float>(scale), grad);
  return grad;
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("masked_mse", mae_fast::masked_mse);
  m.impl("masked_mse_backward", mae_fast::masked_mse_backward);
}
