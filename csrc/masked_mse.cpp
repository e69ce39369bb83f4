// masked_mse and masked_smooth_l1 for CPU tensors: one masked patch at a time, straight from the image.
//
//   r = pred - target
//   masked_mse         loss = mean of r^2,  slope = 2 r, of which r is kept
//   masked_smooth_l1   loss = mean of m (|r| - m / 2) / beta, m = min(|r|, beta),  slope = r / beta in -1 .. 1
//                      beta = 0: loss = mean of |r|,  slope = sign(r)
//   d(pred) = slope d(loss) / count; the backward applies the scale, since 1 / count underflows in float16
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

// Residuals x -> in their place what the backward needs; -> the sum of their losses.
template <typename acc_t>
acc_t squared_error(acc_t* x, int64_t P) {
  return sum_of([](at::vec::Vectorized<acc_t> v) { return v * v; }, x, P);
}

template <typename acc_t>
acc_t smooth_l1(acc_t* x, int64_t P, acc_t beta) {
  using Vec = at::vec::Vectorized<acc_t>;
  const Vec zero(0), one(1), steep(beta), over_beta(beta > 0 ? 1 / beta : 0), half(acc_t(0.5));
  if (beta == 0) {
    const acc_t sum = sum_of([](Vec v) { return v.abs(); }, x, P);
    at::vec::map<acc_t>([=](Vec v) { return v.gt(zero) - v.lt(zero); }, x, x, P);
    return sum;
  }
  const acc_t sum = sum_of([=](Vec v) {
    const Vec size = v.abs(), m = at::vec::minimum(size, steep);
    return m * (size - half * m) * over_beta;
  }, x, P);
  at::vec::map<acc_t>([=](Vec v) { return at::vec::clamp(v * over_beta, zero - one, one); }, x, x, P);
  return sum;
}

// error(residuals, P): squared_error, or smooth_l1 of some beta. kept: what it leaves in their place.
template <typename acc_t, typename Error>
void run(const at::Tensor& pred, const at::Tensor& imgs, const std::vector<int64_t>& ids, int64_t K, int64_t patch,
         at::ArrayRef<double> mean, at::ArrayRef<double> std, bool norm_pix, const Error& error, at::Tensor& loss,
         at::Tensor& kept) {
  using Vec = at::vec::Vectorized<acc_t>;
  const int64_t P = pred.size(2), rows = ids.size();
  const bool all_rows = pred.size(1) != K, with_grad = kept.numel() > 0;
  const RowReader<acc_t> read_pred(pred);
  const RowWriter<acc_t> keep(kept);
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
      row_sum[row] = error(target.data(), P);
      if (with_grad) keep.write(row, target.data());
    }
  });
  double total = 0;
  for (acc_t sum : row_sum) total += sum;
  loss.fill_(total / (static_cast<double>(rows) * P));
}

// error(acc_t*, P) as in run, for float and double.
template <typename Error>
std::tuple<at::Tensor, at::Tensor> masked_error(const char* op, const at::Tensor& pred, const at::Tensor& imgs,
                                                const at::Tensor& ids, int64_t patch, at::ArrayRef<double> mean,
                                                at::ArrayRef<double> std, bool norm_pix, bool with_grad,
                                                const Error& error) {
  const ImageShape shape(imgs, patch, op);
  const int64_t B = imgs.size(0);
  const std::vector<int64_t> checked = checked_ids(ids, B, shape.L, op);
  const int64_t K = ids.size(1);
  TORCH_CHECK(pred.dim() == 3 && pred.size(0) == B && pred.size(2) == patch * patch * shape.C &&
                  (pred.size(1) == K || pred.size(1) == shape.L),
              op, ": pred has shape ", pred.sizes(), " for images ", imgs.sizes(), " and ids ", ids.sizes());

  const bool is_double = pred.scalar_type() == at::kDouble || imgs.scalar_type() == at::kDouble;
  at::Tensor loss = at::empty({}, pred.options().dtype(is_double ? at::kDouble : at::kFloat));
  at::Tensor kept = with_grad ? at::empty({B, K, pred.size(2)}, pred.options()) : at::empty({0}, pred.options());
  if (is_double)
    run<double>(pred, imgs, checked, K, patch, mean, std, norm_pix, error, loss, kept);
  else
    run<float>(pred, imgs, checked, K, patch, mean, std, norm_pix, error, loss, kept);
  return {loss, kept};
}

// k_of: which row of kept a row of grad comes from, -1 for none; empty where the rows are the same.
template <typename acc_t>
void run_backward(const at::Tensor& kept, const std::vector<int64_t>& k_of, acc_t scale, at::Tensor& grad) {
  using Vec = at::vec::Vectorized<acc_t>;
  const int64_t N = grad.size(1), P = grad.size(2);
  const RowReader<acc_t> read(kept);
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
      at::vec::map<acc_t>([scale](Vec v) { return v * Vec(scale); }, to, read(row / N, k, scratch.data()), P);
      grads.write(row, to);
    }
  });
}

// slope = factor kept.
at::Tensor masked_error_backward(const char* op, const at::Tensor& kept, const at::Tensor& ids,
                                 const at::Tensor& grad_loss, int64_t num_rows, double factor) {
  TORCH_CHECK(kept.dim() == 3 && ids.dim() == 2 && kept.sizes().slice(0, 2) == ids.sizes(), op, ": kept has shape ",
              kept.sizes(), " and ids ", ids.sizes());
  const int64_t B = ids.size(0), K = ids.size(1);
  std::vector<int64_t> k_of;
  if (num_rows != K) k_of = k_of_patch(checked_ids(ids, B, num_rows, op), B, K, num_rows);
  at::Tensor grad = at::empty({B, num_rows, kept.size(2)}, kept.options());
  const double scale = factor * grad_loss.item<double>() / static_cast<double>(kept.numel());
  if (kept.scalar_type() == at::kDouble || grad_loss.scalar_type() == at::kDouble)
    run_backward<double>(kept, k_of, scale, grad);
  else
    run_backward<float>(kept, k_of, static_cast<float>(scale), grad);
  return grad;
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> masked_mse(const at::Tensor& pred, const at::Tensor& imgs, const at::Tensor& ids,
                                              int64_t patch, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                              bool norm_pix, bool with_grad) {
  return masked_error("masked_mse", pred, imgs, ids, patch, mean, std, norm_pix, with_grad,
                      [](auto* x, int64_t P) { return squared_error(x, P); });
}

std::tuple<at::Tensor, at::Tensor> masked_smooth_l1(const at::Tensor& pred, const at::Tensor& imgs,
                                                    const at::Tensor& ids, int64_t patch, at::ArrayRef<double> mean,
                                                    at::ArrayRef<double> std, bool norm_pix, double beta,
                                                    bool with_grad) {
  return masked_error("masked_smooth_l1", pred, imgs, ids, patch, mean, std, norm_pix, with_grad,
                      [beta]<typename acc_t>(acc_t* x, int64_t P) { return smooth_l1<acc_t>(x, P, beta); });
}

at::Tensor masked_mse_backward(const at::Tensor& residual, const at::Tensor& ids, const at::Tensor& grad_loss,
                               int64_t num_rows) {
  return masked_error_backward("masked_mse_backward", residual, ids, grad_loss, num_rows, 2);
}

at::Tensor masked_smooth_l1_backward(const at::Tensor& slope, const at::Tensor& ids, const at::Tensor& grad_loss,
                                     int64_t num_rows) {
  return masked_error_backward("masked_smooth_l1_backward", slope, ids, grad_loss, num_rows, 1);
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("masked_mse", mae_fast::masked_mse);
  m.impl("masked_mse_backward", mae_fast::masked_mse_backward);
  m.impl("masked_smooth_l1", mae_fast::masked_smooth_l1);
  m.impl("masked_smooth_l1_backward", mae_fast::masked_smooth_l1_backward);
}
