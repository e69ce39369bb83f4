// add_layer_norm for CPU tensors: s = x + scale (y + y_bias) and LayerNorm(s), a residual connection and the norm that
// follows it; without y, LayerNorm(x). scale: a number for each image, or none, which is 1.
//
//   h = (s - mean) rstd,   out = h weight + bias
//   g = grad_out weight,   ds = rstd (g - mean(g) - h mean(g h)) + grad_s,   dy = scale ds
//   sums over rows: d(weight) of grad_out h, d(bias) of grad_out, d(y_bias) of dy
//
// A row stays in the first cache between the passes over it; x, y and the gradients are read once and each result is
// written once. The sums over rows are kept apart for a fixed number of chunks and then added in order, so that they do
// not depend on the number of threads.

#include "vectors.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>

namespace mae_fast {
namespace {

constexpr int64_t kChunks = 32;

float total(Float x) {
  return at::vec::vec_reduce_all<float>([](Float a, Float b) { return a + b; }, x);
}

// Sum of f(j, count) over the vectors of a row, in four partial sums: additions need not wait for each other.
template <typename F>
float sum_of(int64_t n, const F& f) {
  constexpr int64_t V = Float::size();
  Float sums[4] = {Float(0), Float(0), Float(0), Float(0)};
  int64_t j = 0;
  for (; j + 4 * V <= n; j += 4 * V)
    for (int64_t k = 0; k < 4; ++k) sums[k] = sums[k] + f(j + k * V, V);
  for (; j + V <= n; j += V) sums[0] = sums[0] + f(j, V);
  if (j < n) sums[1] = sums[1] + Float::set(Float(0), f(j, n - j), n - j);
  return total((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

struct Sizes {
  int64_t rows, D;
  double eps;
};

// The factor of each row's branch; 1 where there is no scale.
struct Scale {
  at::Tensor kept;
  const float* data = nullptr;
  int64_t rows_each = 1;

  Scale(const std::optional<at::Tensor>& scale, int64_t rows, const char* op) {
    if (!scale) return;
    TORCH_CHECK(scale->dim() == 1 && scale->scalar_type() == at::kFloat &&
                    (rows ? scale->numel() && rows % scale->numel() == 0 : true),
                op, ": scale has shape ", scale->sizes(), " for ", rows, " rows");
    kept = scale->contiguous(), data = kept.const_data_ptr<float>();
    rows_each = rows ? rows / scale->numel() : 1;
  }
  explicit operator bool() const { return data; }
  float operator()(int64_t row) const { return data ? data[row / rows_each] : 1; }
};

// X: the residual stream's type; Y: that of the branch and of the result. y and s are null when there is no branch,
// y_bias when nothing is added to it.
template <typename X, typename Y>
void forward(const Sizes& size, const Scale& scale, const X* x, const Y* y, const float* y_bias, const float* weight,
             const float* bias, X* s, Y* out, float* mean, float* rstd) {
  const int64_t D = size.D;
  at::parallel_for(0, size.rows, /*grain_size=*/16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Float factor(scale(i));
      if (y)
        for_each_vector(D, [&](int64_t j, int64_t count) {
          Float branch = load(y + i * D + j, count);
          if (y_bias) branch = branch + load(y_bias + j, count);
          if (scale) branch = branch * factor;
          store(load(x + i * D + j, count) + branch, s + i * D + j, count);
        });
      const X* row = (y ? s : x) + i * D;
      const float m = sum_of(D, [&](int64_t j, int64_t count) { return load(row + j, count); }) / D;
      const float squares = sum_of(D, [&](int64_t j, int64_t count) {
        const Float d = load(row + j, count) - Float(m);
        return d * d;
      });
      const float r = 1 / std::sqrt(squares / D + static_cast<float>(size.eps));
      for_each_vector(D, [&](int64_t j, int64_t count) {
        const Float h = (load(row + j, count) - Float(m)) * Float(r);
        store(at::vec::fmadd(h, load(weight + j, count), load(bias + j, count)), out + i * D + j, count);
      });
      mean[i] = m;
      rstd[i] = r;
    }
  });
}

// grad_s and grad_y may be null. sums: (kChunks, kinds, D), those of grad_out h, of grad_out, and where kinds is 3 of dy.
template <typename X, typename Y>
void backward(const Sizes& size, const Scale& scale, const X* grad_s, const Y* grad_out, const X* s,
              const float* weight, const float* mean, const float* rstd, X* grad_x, Y* grad_y, int64_t kinds,
              float* sums) {
  const int64_t D = size.D;
  at::parallel_for(0, kChunks, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float *sum_gh = sums + chunk * kinds * D, *sum_g = sum_gh + D, *sum_dy = kinds == 3 ? sum_g + D : nullptr;
      for (int64_t i = size.rows * chunk / kChunks; i < size.rows * (chunk + 1) / kChunks; ++i) {
        const Float m(mean[i]), r(rstd[i]), factor(scale(i));
        const Y* go = grad_out + i * D;
        const X* row = s + i * D;
        const float mean_g =
            sum_of(D, [&](int64_t j, int64_t count) { return load(go + j, count) * load(weight + j, count); }) / D;
        const float mean_gh = sum_of(D, [&](int64_t j, int64_t count) {
          const Float g = load(go + j, count), gh = g * ((load(row + j, count) - m) * r);
          store(load(sum_gh + j, count) + gh, sum_gh + j, count);
          store(load(sum_g + j, count) + g, sum_g + j, count);
          return gh * load(weight + j, count);
        }) / D;
        for_each_vector(D, [&](int64_t j, int64_t count) {
          const Float h = (load(row + j, count) - m) * r;
          const Float g = load(go + j, count) * load(weight + j, count);
          Float ds = r * (g - at::vec::fmadd(h, Float(mean_gh), Float(mean_g)));
          if (grad_s) ds = ds + load(grad_s + i * D + j, count);
          store(ds, grad_x + i * D + j, count);
          if (scale) ds = ds * factor;
          if (grad_y) store(ds, grad_y + i * D + j, count);
          if (sum_dy) store(load(sum_dy + j, count) + ds, sum_dy + j, count);
        });
      }
    }
  });
}

// f(X, Y) for a residual stream and a result of one type, or of float32 and a narrower one.
template <typename F>
void dispatch(at::ScalarType x, at::ScalarType y, const F& f) {
  TORCH_CHECK(x == y || x == at::kFloat, "add_layer_norm: no kernel for ", x, " and ", y);
  if (y == at::kFloat)
    f(float{}, float{});
  else if (y == at::kBFloat16)
    x == y ? f(at::BFloat16{}, at::BFloat16{}) : f(float{}, at::BFloat16{});
  else if (y == at::kHalf)
    x == y ? f(at::Half{}, at::Half{}) : f(float{}, at::Half{});
  else
    TORCH_CHECK(false, "add_layer_norm: no kernel for ", y);
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> add_layer_norm(
    const at::Tensor& x, const std::optional<at::Tensor>& y, const std::optional<at::Tensor>& y_bias,
    const at::Tensor& weight, const at::Tensor& bias, double eps, at::ScalarType dtype,
    const std::optional<at::Tensor>& scale) {
  const int64_t D = weight.numel();
  TORCH_CHECK(D && x.dim() && x.size(-1) == D && bias.numel() == D, "add_layer_norm: x has shape ", x.sizes(),
              ", weight ", weight.sizes(), ", bias ", bias.sizes());
  TORCH_CHECK(!y || (y->sizes() == x.sizes() && y->scalar_type() == dtype), "add_layer_norm: y has shape ",
              y ? y->sizes() : x.sizes(), " for x ", x.sizes());
  TORCH_CHECK(!y_bias || (y && y_bias->numel() == D), "add_layer_norm: y_bias needs y, and ", D, " numbers");
  const Sizes size{x.numel() / D, D, eps};
  const Scale factors(scale, size.rows, "add_layer_norm");
  const at::Tensor x_c = x.contiguous(), y_c = y ? y->contiguous() : at::Tensor();
  const at::Tensor w = weight.to(at::kFloat).contiguous(), b = bias.to(at::kFloat).contiguous();
  const at::Tensor yb = y_bias ? y_bias->to(at::kFloat).contiguous() : at::Tensor();
  const auto floats = x.options().dtype(at::kFloat);
  at::Tensor s = y ? at::empty(x.sizes(), x.options()) : at::empty({0}, x.options());
  at::Tensor out = at::empty(x.sizes(), x.options().dtype(dtype));
  at::Tensor mean = at::empty({size.rows}, floats), rstd = at::empty({size.rows}, floats);
  dispatch(x.scalar_type(), dtype, [&]<typename X, typename Y>(X, Y) {
    forward<X, Y>(size, factors, x_c.const_data_ptr<X>(), y ? y_c.const_data_ptr<Y>() : nullptr,
                  y_bias ? yb.const_data_ptr<float>() : nullptr, w.const_data_ptr<float>(), b.const_data_ptr<float>(),
                  y ? s.mutable_data_ptr<X>() : nullptr, out.mutable_data_ptr<Y>(), mean.mutable_data_ptr<float>(),
                  rstd.mutable_data_ptr<float>());
  });
  return {s, out, mean, rstd};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_layer_norm_backward(
    const std::optional<at::Tensor>& grad_s, const at::Tensor& grad_out, const at::Tensor& s, const at::Tensor& weight,
    const at::Tensor& mean, const at::Tensor& rstd, bool need_y, bool need_y_bias,
    const std::optional<at::Tensor>& scale) {
  const int64_t D = weight.numel();
  const Sizes size{mean.numel(), D, 0};
  const Scale factors(scale, size.rows, "add_layer_norm_backward");
  TORCH_CHECK(s.numel() == size.rows * D && grad_out.sizes() == s.sizes() && rstd.numel() == size.rows &&
                  (!grad_s || (grad_s->sizes() == s.sizes() && grad_s->scalar_type() == s.scalar_type())),
              "add_layer_norm_backward: grad has shape ", grad_out.sizes(), " for a sum of ", s.sizes());
  const at::Tensor gs = grad_s ? grad_s->contiguous() : at::Tensor(), go = grad_out.contiguous(), s_c = s.contiguous();
  const at::Tensor w = weight.to(at::kFloat).contiguous(), m = mean.contiguous(), r = rstd.contiguous();
  at::Tensor grad_x = at::empty(s.sizes(), s.options());
  at::Tensor grad_y = need_y ? at::empty(s.sizes(), go.options()) : at::empty({0}, go.options());
  const int64_t kinds = need_y_bias ? 3 : 2;
  at::Tensor sums = at::zeros({kChunks, kinds, D}, s.options().dtype(at::kFloat));
  dispatch(s.scalar_type(), go.scalar_type(), [&]<typename X, typename Y>(X, Y) {
    backward<X, Y>(size, factors, grad_s ? gs.const_data_ptr<X>() : nullptr, go.const_data_ptr<Y>(), s_c.const_data_ptr<X>(),
                   w.const_data_ptr<float>(), m.const_data_ptr<float>(), r.const_data_ptr<float>(),
                   grad_x.mutable_data_ptr<X>(), need_y ? grad_y.mutable_data_ptr<Y>() : nullptr, kinds,
                   sums.mutable_data_ptr<float>());
  });
  return {grad_x, grad_y, sums.sum(0)};
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("add_layer_norm", mae_fast::add_layer_norm);
  m.impl("add_layer_norm_backward", mae_fast::add_layer_norm_backward);
}
