// attention for CPU tensors: softmax(q k^T / sqrt(D)) v, forward and backward, on packed qkv (B, N, 3, H, D).
//
//   forward   S = Q K^T,  P = exp(scale S - lse),  O = P V                    lse: logsumexp of the scaled scores, fp32
//   backward  dP = dO V^T,  dS = P o (dP - rowsum(P o dP)),  dV = P^T dO,  dQ = scale dS K,  dK = scale dS^T Q
//
// MAE's sequences are short: a task is one head of one image, whose keys and values stay in cache, and a block of
// queries sees all keys at once, so that there is no online softmax and no second pass. Rows of q, k, v and dO are read
// where they lie; only the right-hand sides of products are packed. The matrix products are oneDNN's brgemm, which
// PyTorch exports: AMX, AVX-512 or AVX2, chosen by oneDNN on the machine it runs on. bfloat16 is multiplied as such
// where the machine can; else, like float16, it is widened to float32 a head at a time.
//
// The backward keeps queries along the columns, S^T = K Q^T: then P^T and dS^T lie as dV and dK want them, and lse and
// rowsum(P o dP) are vectors along a row. The latter equals rowsum(dO o O), but P and dP are in cache and O is not.
// So is the gradient of a bias, d(qkv) summed over images and tokens, formed on the way: dV sums to what dO does, for
// rows of P sum to one, and dK to zero, a softmax being blind to what all its scores share.

#include "heads.h"
#include "softmax.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <cmath>
#include <optional>

namespace mae_fast {
namespace {

using at::BFloat16;

constexpr int64_t kQueries = 64;  // queries a block: scores and their gradient, N x 64 floats each, stay in cache

struct Shape {
  int64_t B, N, H, D;

  float scale() const { return 1 / std::sqrt(static_cast<float>(D)); }
};

// Head h of image b in qkv-like and out-like tensors.
template <typename S>
struct Head {
  S *q, *k, *v, *o;
  int64_t ld_qkv, ld_o;

  Head(const Shape& s, int64_t task, S* qkv, S* out) : ld_qkv(3 * s.H * s.D), ld_o(s.H * s.D) {
    const int64_t b = task / s.H, h = task % s.H;
    q = qkv + b * s.N * ld_qkv + h * s.D;
    k = q + ld_o;
    v = k + ld_o;
    o = out + b * s.N * ld_o + h * s.D;
  }
};

struct Buffers {
  Buffer q, k, v, dout, k_packed, k_columns, v_packed, scores, probs, out, sums;
  Buffer q_columns, dout_columns, q_packed, dout_packed, dprobs, dscores, dscores_packed;
  Buffer ds_rows, dq, dk, dv, lse;
};
thread_local Buffers buffers;

template <typename S, typename T>
void forward_head(const Shape& s, const Head<const S>& in, S* out, float* lse) {
  Buffers& w = buffers;
  const int64_t N = s.N, D = s.D, width = round_up(N, 16), block = std::min(N, kQueries);
  const auto q = widen<T>(Rows<S>{in.q, in.ld_qkv}, N, D, w.q), k = widen<T>(Rows<S>{in.k, in.ld_qkv}, N, D, w.k),
             v = widen<T>(Rows<S>{in.v, in.ld_qkv}, N, D, w.v);
  const auto k_columns = pack_transposed(k, N, D, width, w.k_columns), v_packed = pack(v, N, D, w.v_packed);
  float* scores = w.scores.of<float>(block * width);
  T* probs = w.probs.of<T>(block * width);
  float* o = w.out.of<float>(block * D);
  float* sums = w.sums.of<float>(block);

  for (int64_t begin = 0; begin < N; begin += block) {
    const int64_t rows = std::min(block, N - begin);
    product(rows, width, D, q.from(begin), k_columns, scores, width);
    for (int64_t i = 0; i < rows; ++i) {
      const auto [top, sum] = softmax_row(scores + i * width, N, width, s.scale(), probs + i * width);
      lse[begin + i] = top;
      sums[i] = sum;
    }
    at::vec::map2<float>([](Float top, Float sum) { return top + sum.log(); }, lse + begin, lse + begin, sums, rows);
    product(rows, D, round_up(N, per_word<T>), Rows<T>{probs, width}, v_packed, o, D);
    for (int64_t i = 0; i < rows; ++i) store_scaled(o + i * D, 1 / sums[i], D, out + (begin + i) * in.ld_o);
  }
}

template <typename S, typename T>
void backward_head(const Shape& s, const Head<const S>& in, const S* grad, const float* lse, const Head<S>& out,
                   float* sums) {
  Buffers& w = buffers;
  constexpr int64_t R = per_word<T>;
  const int64_t N = s.N, D = s.D, even = round_up(N, R), block = std::min(round_up(N, 16), kQueries);
  const auto q = widen<T>(Rows<S>{in.q, in.ld_qkv}, N, D, w.q), k = widen<T>(Rows<S>{in.k, in.ld_qkv}, N, D, w.k),
             v = widen<T>(Rows<S>{in.v, in.ld_qkv}, N, D, w.v), dout = widen<T>(Rows<S>{grad, in.ld_o}, N, D, w.dout);

  const auto k_packed = pack(k, N, D, w.k_packed);
  float* scores = w.scores.of<float>(N * block);
  float* dprobs = w.dprobs.of<float>(N * block);
  T* probs = w.probs.of<T>(N * block);
  T* dscores = w.dscores.of<T>(N * block);
  float* ds_rows = w.ds_rows.of<float>(block * even / R);
  float* dq = w.dq.of<float>(block * D);
  float* dk = w.dk.of<float>(N * D);
  float* dv = w.dv.of<float>(N * D);
  float* block_lse = w.lse.of<float>(block);
  for (int64_t part = 0; part < 3; ++part) std::fill_n(sums + part * in.ld_o, D, 0.f);

  for (int64_t begin = 0; begin < N; begin += block) {
    const int64_t rows = std::min(block, N - begin), width = round_up(rows, 16);
    const auto q_block = q.from(begin), dout_block = dout.from(begin);
    std::copy_n(lse + begin, rows, block_lse);
    std::fill(block_lse + rows, block_lse + width, 0.f);  // beyond the queries all numbers are finite, and unused
    product(N, width, D, k, pack_transposed(q_block, rows, D, width, w.q_columns), scores, width);
    product(N, width, D, v, pack_transposed(dout_block, rows, D, width, w.dout_columns), dprobs, width);
    softmax_backward(scores, dprobs, block_lse, N, width, s.scale(), probs, dscores);

    const Rows<T> p{probs, width}, ds{dscores, width};
    const int64_t inner = round_up(rows, R);
    product(N, D, inner, p, pack(dout_block, rows, D, w.dout_packed), dv, D, begin > 0);
    product(N, D, inner, ds, pack(q_block, rows, D, w.q_packed), dk, D, begin > 0);
    // dS row-major: its rows' words are the columns of packed dS^T.
    const auto ds_packed = pack(ds, N, width, w.dscores_packed);
    transpose(reinterpret_cast<const float*>(ds_packed.data), even / R, rows, width, ds_rows, even / R);
    product(rows, D, even, Rows<T>{reinterpret_cast<const T*>(ds_rows), even}, k_packed, dq, D);
    for (int64_t i = 0; i < rows; ++i) store_scaled(dq + i * D, s.scale(), D, out.q + (begin + i) * out.ld_qkv);
    add_column_sums(Rows<float>{dq, D}, rows, D, s.scale(), sums);
    add_column_sums(dout_block, rows, D, 1, sums + 2 * in.ld_o);
  }
  for (int64_t j = 0; j < N; ++j) {
    store_scaled(dk + j * D, s.scale(), D, out.k + j * out.ld_qkv);
    store_scaled(dv + j * D, 1, D, out.v + j * out.ld_qkv);
  }
}

Shape check(const at::Tensor& qkv) {
  TORCH_CHECK(qkv.dim() == 5 && qkv.size(2) == 3, "attention: expected qkv (B, N, 3, H, D); got ", qkv.sizes());
  return {qkv.size(0), qkv.size(1), qkv.size(3), qkv.size(4)};
}

// Contiguous, and aligned for two bfloat16 to be read as one float: a tensor may start at any of its numbers.
at::Tensor aligned(const at::Tensor& x) {
  const at::Tensor y = x.contiguous();
  return reinterpret_cast<uintptr_t>(y.const_data_ptr()) % sizeof(float) ? y.clone() : y;
}

// f(S, T) for the type S of the tensors and the type T the products are formed in.
template <typename F>
void dispatch(const at::Tensor& qkv, const Shape& s, const F& f) {
  if (qkv.scalar_type() == at::kBFloat16 && s.D % 2 == 0 && bfloat16_products())
    f(BFloat16{}, BFloat16{});
  else
    AT_DISPATCH_SWITCH(qkv.scalar_type(), "attention", AT_DISPATCH_CASE(at::kFloat, [&] { f(scalar_t{}, 0.f); })
                       AT_DISPATCH_CASE(at::kBFloat16, [&] { f(scalar_t{}, 0.f); })
                       AT_DISPATCH_CASE(at::kHalf, [&] { f(scalar_t{}, 0.f); }));
}

template <typename F>
void for_each_head(const Shape& s, const F& f) {
  at::parallel_for(0, s.B * s.H, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) f(task);
    finish_streams();
    at::native::cpublas::brgemm_release();  // AMX tiles, which other code on this thread may set up otherwise
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& qkv, const std::optional<at::Tensor>& /*bias*/) {
  const Shape s = check(qkv);
  at::Tensor out = at::empty({s.B, s.N, s.H * s.D}, qkv.options());
  at::Tensor lse = at::empty({s.B, s.H, s.N}, qkv.options().dtype(at::kFloat));
  const at::Tensor x = aligned(qkv);
  dispatch(qkv, s, [&]<typename S, typename T>(S, T) {
    const S* in = x.const_data_ptr<S>();
    S* to = out.mutable_data_ptr<S>();
    float* lse_data = lse.mutable_data_ptr<float>();
    for_each_head(s, [&](int64_t task) {
      const Head<S> head(s, task, nullptr, to);
      forward_head<S, T>(s, Head<const S>(s, task, in, nullptr), head.o, lse_data + task * s.N);
    });
  });
  return {out, lse};
}

std::tuple<at::Tensor, at::Tensor> attention_backward(const at::Tensor& grad, const at::Tensor& qkv,
                                                      const at::Tensor& out, const at::Tensor& lse) {
  const Shape s = check(qkv);
  TORCH_CHECK(grad.sizes() == out.sizes() && out.numel() * 3 == qkv.numel() && lse.numel() == s.B * s.H * s.N,
              "attention_backward: qkv ", qkv.sizes(), ", shapes ", grad.sizes(), ", ", out.sizes(), ", ", lse.sizes());
  TORCH_CHECK(grad.scalar_type() == qkv.scalar_type() && out.scalar_type() == qkv.scalar_type(),
              "attention_backward: expected one type; got ", grad.scalar_type(), " and ", qkv.scalar_type());
  const at::Tensor x = aligned(qkv), o = out.contiguous(), g = aligned(grad), l = lse.contiguous();
  at::Tensor grad_qkv = at::empty(qkv.sizes(), qkv.options());
  at::Tensor image_sums = at::empty({s.B, 3, s.H, s.D}, l.options()), grad_bias = at::zeros({3, s.H, s.D}, l.options());
  float* sums = image_sums.mutable_data_ptr<float>();
  dispatch(qkv, s, [&]<typename S, typename T>(S, T) {
    const S *in = x.const_data_ptr<S>(), *y = o.const_data_ptr<S>(), *dy = g.const_data_ptr<S>();
    S* to = grad_qkv.mutable_data_ptr<S>();
    const float* lse_data = l.const_data_ptr<float>();
    for_each_head(s, [&](int64_t task) {
      const Head<const S> from(s, task, in, y);
      const int64_t first = (task / s.H * 3 * s.H + task % s.H) * s.D;
      backward_head<S, T>(s, from, dy + (from.o - y), lse_data + task * s.N, {s, task, to, nullptr}, sums + first);
    });
  });
  const int64_t n = grad_bias.numel();  // not by sum(0), whose rounding depends on the number of threads
  add_column_sums(Rows<float>{sums, n}, s.B, n, 1, grad_bias.mutable_data_ptr<float>());
  return {grad_qkv, grad_bias};
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("attention", mae_fast::attention);
  m.impl("attention_backward", mae_fast::attention_backward);
}
