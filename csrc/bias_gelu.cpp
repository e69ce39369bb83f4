// bias_gelu for CPU tensors: y = u Phi(u) with u = x + bias, and in one pass of the backward its gradient and that of
// the bias.
//
//   du = dy (Phi(u) + u phi(u)),   d(bias) = column sums of du
//
// Phi and phi are the normal distribution and density. Phi(u) - 1/2 and gelu'(u) - 1/2 are odd, u P(u^2), and flat
// beyond |u| = 6: so each is one polynomial, no exponential and no division, with largest errors in float32 of 9e-8 and
// 2e-7. Column sums are kept apart for a fixed number of chunks of rows and then added in order, so that they do not
// depend on the number of threads.

#include "vectors.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

namespace mae_fast {
namespace {

constexpr int64_t kChunks = 32;

// u P(s) + 1/2, s = 2 (u / flat)^2 - 1, for |u| <= flat: beyond, the function is 0 or 1 to float32's precision. In s
// the coefficients are small. Minimax fits to 2e-8, by tools/fit_gelu.py.
template <size_t n>
struct OddAboutHalf {
  float flat, coefficients[n];

  Float operator()(Float u) const {
    u = at::vec::clamp(u, Float(-flat), Float(flat));
    const Float s = at::vec::fmadd(u * u, Float(2 / (flat * flat)), Float(-1));
    Float p(coefficients[n - 1]);
    for (int i = n - 2; i >= 0; --i) p = at::vec::fmadd(p, s, Float(coefficients[i]));
    return at::vec::fmadd(u, p, Float(0.5f));
  }
};

constexpr OddAboutHalf<15> kDistribution{
    5.25f, {0.13465935f,     -0.067126818f,  0.0496457852f,   -0.0397634134f,  0.032031443f,
            -0.0250419304f,  0.0185386371f,  -0.0127752582f,  0.00841790345f,  -0.00544850528f,
            0.00289231073f,  -0.0010395475f, 0.00066477136f,  -0.000656579505f, 0.000239938236f}};
constexpr OddAboutHalf<18> kDerivative{
    5.75f, {0.123071827f,   -0.0622814074f, 0.0493672229f,   -0.0472942367f,  0.0517064855f,   -0.0595244244f,
            0.0667546168f,  -0.0705783591f, 0.0693849549f,   -0.0593587868f,  0.0431632362f,   -0.0349293537f,
            0.0316927843f,  -0.0162192564f, 0.00106234115f,  -0.00283289119f, 0.00621700753f,  -0.00244521815f}};

// The factor of Phi is clamped too: Phi rounds to a little more than 0 there, which -30 would multiply.
Float gelu(Float u) { return at::vec::clamp_min(u, Float(-kDistribution.flat)) * kDistribution(u); }

template <typename T>
void forward(const at::Tensor& x, const float* bias, at::Tensor& out) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T* from = x.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  at::parallel_for(0, rows, /*grain_size=*/8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for_each_vector(n, [&](int64_t j, int64_t count) {
        store(gelu(load(from + i * n + j, count) + load(bias + j, count)), to + i * n + j, count);
      });
  });
}

template <typename T>
void backward(const at::Tensor& grad, const at::Tensor& x, const float* bias, at::Tensor& grad_x,
              at::Tensor& chunk_sums) {
  const int64_t n = x.size(-1), rows = x.numel() / n;
  const T *from = x.const_data_ptr<T>(), *dy = grad.const_data_ptr<T>();
  T* to = grad_x.mutable_data_ptr<T>();
  at::parallel_for(0, kChunks, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      float* sums = chunk_sums.mutable_data_ptr<float>() + chunk * n;
      for (int64_t i = rows * chunk / kChunks; i < rows * (chunk + 1) / kChunks; ++i)
        for_each_vector(n, [&](int64_t j, int64_t count) {
          const Float u = load(from + i * n + j, count) + load(bias + j, count);
          const Float du = load(dy + i * n + j, count) * kDerivative(u);
          store(du, to + i * n + j, count);
          store(load(sums + j, count) + du, sums + j, count);
        });
    }
  });
}

void check(const at::Tensor& x, const at::Tensor& bias) {
  TORCH_CHECK(x.dim() && bias.dim() == 1 && x.size(-1) == bias.size(0), "bias_gelu: x has shape ", x.sizes(),
              " and bias ", bias.sizes());
}

}  // namespace

at::Tensor bias_gelu(const at::Tensor& x, const at::Tensor& bias) {
  check(x, bias);
  const at::Tensor from = x.contiguous(), b = bias.to(at::kFloat).contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options());
  if (x.numel())
    AT_DISPATCH_SWITCH(x.scalar_type(), "bias_gelu",
                       AT_DISPATCH_CASE(at::kFloat, [&] { forward<scalar_t>(from, b.const_data_ptr<float>(), out); })
                       AT_DISPATCH_CASE(at::kBFloat16, [&] { forward<scalar_t>(from, b.const_data_ptr<float>(), out); })
                       AT_DISPATCH_CASE(at::kHalf, [&] { forward<scalar_t>(from, b.const_data_ptr<float>(), out); }));
  return out;
}

std::tuple<at::Tensor, at::Tensor> bias_gelu_backward(const at::Tensor& grad, const at::Tensor& x,
                                                      const at::Tensor& bias) {
  check(x, bias);
  TORCH_CHECK(grad.sizes() == x.sizes() && grad.scalar_type() == x.scalar_type(),
              "bias_gelu_backward: grad has shape ", grad.sizes(), " and type ", grad.scalar_type(), " for x ",
              x.sizes(), " and ", x.scalar_type());
  const at::Tensor dy = grad.contiguous(), from = x.contiguous(), b = bias.to(at::kFloat).contiguous();
  at::Tensor grad_x = at::empty(x.sizes(), x.options());
  at::Tensor sums = at::zeros({kChunks, bias.size(0)}, x.options().dtype(at::kFloat));
  const float* b_data = b.const_data_ptr<float>();
  if (x.numel())
    AT_DISPATCH_SWITCH(
        x.scalar_type(), "bias_gelu_backward",
        AT_DISPATCH_CASE(at::kFloat, [&] { backward<scalar_t>(dy, from, b_data, grad_x, sums); })
        AT_DISPATCH_CASE(at::kBFloat16, [&] { backward<scalar_t>(dy, from, b_data, grad_x, sums); })
        AT_DISPATCH_CASE(at::kHalf, [&] { backward<scalar_t>(dy, from, b_data, grad_x, sums); }));
  return {grad_x, sums.sum(0)};
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("bias_gelu", mae_fast::bias_gelu);
  m.impl("bias_gelu_backward", mae_fast::bias_gelu_backward);
}
