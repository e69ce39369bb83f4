// masked_mse for CPU tensors: loss and residual of one masked patch at a time, straight from the image.
//
//   residual = pred - target,   loss = mean over (b, k, i) of residual[b, k, i]^2
//   d(pred) = 2 residual d(loss) / count; the scale waits for the backward, since 1 / count is nothing in float16
//
// target is the patch ids[b, k] of image b in (p, q, c) order, normalised in here when the image is uint8, and brought
// to zero mean and unit unbiased variance when norm_pix is set. A patch (P = p*p*C numbers, 3 KB at 16 px) stays in
// cache between its three uses. Each row's sum is kept apart and the rows are added in order, so that the result does
// not depend on the number of threads.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <array>
#include <cmath>
#include <vector>

namespace {

// An image batch seen as (b, c, y, x), whatever its layout, with the map from stored value to normalised value.
template <typename scalar_t, typename acc_t>
struct Images {
  const scalar_t* data;
  int64_t stride_b, stride_c, stride_y, stride_x;
  int64_t channels, grid_width, patch;
  std::vector<acc_t> scale, shift;  // value * scale[c] + shift[c]

  void read_patch(int64_t b, int64_t id, acc_t* out) const {
    const scalar_t* corner =
        data + b * stride_b + (id / grid_width) * patch * stride_y + (id % grid_width) * patch * stride_x;
    for (int64_t p = 0; p < patch; ++p)
      for (int64_t q = 0; q < patch; ++q)
        for (int64_t c = 0; c < channels; ++c)
          *out++ = static_cast<acc_t>(corner[p * stride_y + q * stride_x + c * stride_c]) * scale[c] + shift[c];
  }
};

template <typename scalar_t, typename acc_t>
Images<scalar_t, acc_t> view_images(const at::Tensor& imgs, int64_t patch, at::ArrayRef<double> mean,
                                    at::ArrayRef<double> std) {
  const bool nhwc = imgs.scalar_type() == at::kByte;
  const int c = nhwc ? 3 : 1, y = nhwc ? 1 : 2, x = nhwc ? 2 : 3;
  Images<scalar_t, acc_t> view{imgs.const_data_ptr<scalar_t>(), imgs.stride(0), imgs.stride(c), imgs.stride(y),
                               imgs.stride(x), imgs.size(c), imgs.size(x) / patch, patch, {}, {}};
  for (int64_t i = 0; i < view.channels; ++i) {
    view.scale.push_back(nhwc ? 1.0 / (255.0 * std[i]) : 1.0);
    view.shift.push_back(nhwc ? -mean[i] / std[i] : 0.0);
  }
  return view;
}

// Sum of term(0) .. term(n - 1). Sixteen partial sums: the compiler may then use vectors, and fewer roundings add up.
template <typename acc_t, typename F>
acc_t sum_of(int64_t n, const F& term) {
  constexpr int64_t lanes = 16;
  acc_t partial[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = 0; j < lanes; ++j) partial[j] += term(i + j);
  for (; i < n; ++i) partial[i % lanes] += term(i);
  acc_t sum = 0;
  for (acc_t p : partial) sum += p;
  return sum;
}

template <typename acc_t>
void normalize_patch(acc_t* x, int64_t P) {
  const acc_t mean = sum_of<acc_t>(P, [&](int64_t i) { return x[i]; }) / P;
  const acc_t squares = sum_of<acc_t>(P, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); });
  const acc_t rstd = 1 / std::sqrt(squares / (P - 1) + acc_t(1e-6));
  for (int64_t i = 0; i < P; ++i) x[i] = (x[i] - mean) * rstd;
}

template <typename pred_t, typename img_t, typename acc_t>
void run(const at::Tensor& pred, const at::Tensor& imgs, const at::Tensor& ids, int64_t patch,
         at::ArrayRef<double> mean, at::ArrayRef<double> std, bool norm_pix, at::Tensor& loss, at::Tensor& residual) {
  const auto images = view_images<img_t, acc_t>(imgs, patch, mean, std);
  const int64_t K = ids.size(1), P = pred.size(2), rows = ids.numel();
  const bool all_rows = pred.size(1) != K, with_grad = residual.numel() > 0;
  const pred_t* pred_data = pred.const_data_ptr<pred_t>();
  const int64_t* ids_data = ids.const_data_ptr<int64_t>();
  pred_t* residual_data = with_grad ? residual.mutable_data_ptr<pred_t>() : nullptr;

  std::vector<acc_t> row_sum(rows);
  at::parallel_for(0, rows, /*grain_size=*/16, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> target(P);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / K, id = ids_data[row];
      images.read_patch(b, id, target.data());
      if (norm_pix) normalize_patch(target.data(), P);
      const int64_t at = (all_rows ? b * pred.size(1) + id : row) * P;
      for (int64_t i = 0; i < P; ++i) target[i] = static_cast<acc_t>(pred_data[at + i]) - target[i];
      row_sum[row] = sum_of<acc_t>(P, [&](int64_t i) { return target[i] * target[i]; });
      if (with_grad)
        for (int64_t i = 0; i < P; ++i) residual_data[row * P + i] = static_cast<pred_t>(target[i]);
    }
  });
  double total = 0;
  for (acc_t sum : row_sum) total += sum;
  loss.fill_(total / (static_cast<double>(rows) * P));
}

std::tuple<at::Tensor, at::Tensor> masked_mse(const at::Tensor& pred, const at::Tensor& imgs, const at::Tensor& ids,
                                              int64_t patch, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                              bool norm_pix, bool with_grad) {
  const bool nhwc = imgs.scalar_type() == at::kByte;
  const int64_t height = imgs.size(nhwc ? 1 : 2), width = imgs.size(nhwc ? 2 : 3), channels = imgs.size(nhwc ? 3 : 1);
  const int64_t L = (height / patch) * (width / patch), B = imgs.size(0);
  TORCH_CHECK(pred.dim() == 3 && pred.size(0) == B && pred.size(2) == patch * patch * channels &&
                  (pred.size(1) == ids.size(1) || pred.size(1) == L),
              "masked_mse: pred has shape ", pred.sizes(), " for images ", imgs.sizes(), " and ids ", ids.sizes());
  TORCH_CHECK(ids.dim() == 2 && ids.size(0) == B, "masked_mse: ids has shape ", ids.sizes());
  TORCH_CHECK_INDEX(ids.min().item<int64_t>() >= 0 && ids.max().item<int64_t>() < L,
                    "masked_mse: ids out of 0..", L - 1);

  const bool is_double = pred.scalar_type() == at::kDouble || imgs.scalar_type() == at::kDouble;
  at::Tensor loss = at::empty({}, pred.options().dtype(is_double ? at::kDouble : at::kFloat));
  const at::Tensor pred_c = pred.contiguous(), ids_c = ids.contiguous();
  at::Tensor residual =
      with_grad ? at::empty({B, ids.size(1), pred.size(2)}, pred.options()) : at::empty({0}, pred.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, pred.scalar_type(), "masked_mse pred", [&] {
    using pred_t = scalar_t;
    AT_DISPATCH_FLOATING_TYPES_AND3(at::kByte, at::kBFloat16, at::kHalf, imgs.scalar_type(), "masked_mse imgs", [&] {
      const auto kernel = is_double ? run<pred_t, scalar_t, double> : run<pred_t, scalar_t, float>;
      kernel(pred_c, imgs, ids_c, patch, mean, std, norm_pix, loss, residual);
    });
  });
  return {loss, residual};
}

template <typename scalar_t, typename loss_t>
void run_backward(const at::Tensor& residual, const at::Tensor& ids, const at::Tensor& grad_loss, at::Tensor& grad) {
  const int64_t K = ids.size(1), P = residual.size(2), rows = ids.numel();
  const bool all_rows = grad.size(1) != K;
  const loss_t scale = 2 * *grad_loss.const_data_ptr<loss_t>() / (static_cast<loss_t>(rows) * P);
  const scalar_t* residual_data = residual.const_data_ptr<scalar_t>();
  const int64_t* ids_data = ids.const_data_ptr<int64_t>();
  scalar_t* grad_data = grad.mutable_data_ptr<scalar_t>();
  at::parallel_for(0, rows, /*grain_size=*/16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t to = (all_rows ? row / K * grad.size(1) + ids_data[row] : row) * P;
      for (int64_t i = 0; i < P; ++i)
        grad_data[to + i] = static_cast<scalar_t>(static_cast<loss_t>(residual_data[row * P + i]) * scale);
    }
  });
}

at::Tensor masked_mse_backward(const at::Tensor& residual, const at::Tensor& ids, const at::Tensor& grad_loss,
                               int64_t num_rows) {
  TORCH_CHECK(residual.dim() == 3 && ids.dim() == 2 && residual.sizes().slice(0, 2) == ids.sizes(),
              "masked_mse_backward: residual has shape ", residual.sizes(), " and ids ", ids.sizes());
  const bool all_rows = num_rows != ids.size(1);
  TORCH_CHECK_INDEX(!all_rows || (ids.min().item<int64_t>() >= 0 && ids.max().item<int64_t>() < num_rows),
                    "masked_mse_backward: ids out of 0..", num_rows - 1);
  const std::array<int64_t, 3> shape{residual.size(0), num_rows, residual.size(2)};
  at::Tensor grad = all_rows ? at::zeros(shape, residual.options()) : at::empty(shape, residual.options());
  const at::Tensor residual_c = residual.contiguous(), ids_c = ids.contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, residual.scalar_type(), "masked_mse_backward", [&] {
    const bool is_double = grad_loss.scalar_type() == at::kDouble;
    const auto kernel = is_double ? run_backward<scalar_t, double> : run_backward<scalar_t, float>;
    kernel(residual_c, ids_c, grad_loss, grad);
  });
  return grad;
}

}  // namespace

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("masked_mse", masked_mse);
  m.impl("masked_mse_backward", masked_mse_backward);
}
