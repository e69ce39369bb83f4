// unshuffle for CPU tensors: the decoder's input, written once, in image order.
//
//   out[b, 0]     = tokens[b, 0] + pos_embed[0]
//   out[b, 1 + l] = (tokens[b, 1 + r] if r < K else mask_token) + pos_embed[1 + l],   r = ids_restore[b, l]
//
// tokens: (B, 1+K, D) [cls, kept]; mask_token: D numbers; pos_embed: (1, 1+L, D); ids_restore: int64 (B, L); out:
// (B, 1+L, D) in the type that tokens + pos_embed has. mask_token + pos_embed is the same for all images: a table, of
// which most rows of out are copies. Backward: d(out) read once, d(tokens) written once; d(mask_token) is summed over
// chunks of ROWS rows, then over the chunks, so that the number of threads changes no bit of it.

#include "ids.h"
#include "rows.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

namespace mae_fast {
namespace {

constexpr int64_t ROWS = 64;  // rows worth handing to another thread

template <typename acc_t>
void add(acc_t* sum, const acc_t* x, const acc_t* y, int64_t n) {
  at::vec::map2<acc_t>([](auto a, auto b) { return a + b; }, sum, x, y, n);
}

// Row n of [cls, patches in image order] is row source(n) of [cls, kept, masked].
struct Source {
  const std::vector<int64_t>& ids;
  int64_t N;  // 1+L

  int64_t operator()(int64_t row) const { return row % N ? 1 + ids[row / N * (N - 1) + row % N - 1] : 0; }
};

template <typename acc_t>
void run(const at::Tensor& tokens, const at::Tensor& masked, const at::Tensor& pos, const std::vector<int64_t>& ids,
         at::Tensor& out) {
  const int64_t B = out.size(0), N = out.size(1), D = out.size(2), kept = tokens.size(1);
  const Source source{ids, N};
  const RowReader<acc_t> from(tokens);
  const RowWriter<acc_t> to(out);
  const acc_t* pos_data = pos.const_data_ptr<acc_t>();
  const char* masked_data = static_cast<const char*>(masked.const_data_ptr());
  at::parallel_for(0, B * N, ROWS, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> scratch(D);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t r = source(row), n = row % N;
      if (r >= kept) {
        to.copy(row, masked_data + n * D * masked.element_size());
        continue;
      }
      acc_t* sum = to.place(row, scratch.data());
      add(sum, from(row / N, r, scratch.data()), pos_data + n * D, D);
      to.write(row, sum);
    }
  });
}

}  // namespace

at::Tensor unshuffle(const at::Tensor& tokens, const at::Tensor& mask_token, const at::Tensor& pos_embed,
                     const at::Tensor& ids_restore) {
  TORCH_CHECK(tokens.dim() == 3 && ids_restore.dim() == 2, "unshuffle: tokens have shape ", tokens.sizes());
  const int64_t B = tokens.size(0), D = tokens.size(2), L = ids_restore.size(1);
  const std::vector<int64_t> ids = checked_ids(ids_restore, B, L, "unshuffle");
  TORCH_CHECK(tokens.size(1) >= 1 && mask_token.numel() == D && pos_embed.numel() == (1 + L) * D,
              "unshuffle: tokens ", tokens.sizes(), ", mask_token ", mask_token.sizes(), ", pos_embed ",
              pos_embed.sizes(), ", ids_restore ", ids_restore.sizes());
  const at::Tensor masked = at::add(mask_token.to(tokens.scalar_type()).reshape({1, 1, D}), pos_embed).contiguous();
  at::Tensor out = at::empty({B, 1 + L, D}, masked.options());
  const bool is_double = out.scalar_type() == at::kDouble;
  const at::Tensor pos = pos_embed.to(is_double ? at::kDouble : at::kFloat).contiguous();
  (is_double ? run<double> : run<float>)(tokens, masked, pos, ids, out);
  return out;
}

namespace {

template <typename acc_t>
void run_backward(const at::Tensor& grad, const std::vector<int64_t>& ids, at::Tensor& grad_tokens,
                  at::Tensor& grad_mask, at::Tensor& grad_pos) {
  const int64_t B = grad.size(0), N = grad.size(1), D = grad.size(2), kept = grad_tokens.size(1);
  const Source source{ids, N};
  const RowReader<acc_t> from(grad);
  const RowWriter<acc_t> to(grad_tokens);
  const bool need_mask = grad_mask.numel() > 0;
  const int64_t rows = B * N, chunks = (rows + ROWS - 1) / ROWS;
  std::vector<acc_t> partial(need_mask ? chunks * D : 0);
  at::parallel_for(0, chunks, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> scratch(D);
    for (int64_t row = begin * ROWS; row < std::min(end * ROWS, rows); ++row) {
      const int64_t b = row / N, r = source(row);
      if (r < kept) {
        to.write(b * kept + r, from(b, row % N, scratch.data()));
      } else if (need_mask) {
        acc_t* sum = partial.data() + row / ROWS * D;
        add(sum, sum, from(b, row % N, scratch.data()), D);
      }
    }
  });
  if (need_mask) {
    std::vector<double> total(D);
    for (int64_t i = 0; i < chunks; ++i)
      for (int64_t d = 0; d < D; ++d) total[d] += partial[i * D + d];
    std::copy(total.begin(), total.end(), grad_mask.mutable_data_ptr<acc_t>());
  }

  if (grad_pos.numel() == 0) return;
  acc_t* pos_data = grad_pos.mutable_data_ptr<acc_t>();
  at::parallel_for(0, N, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    std::vector<acc_t> scratch(D);
    std::fill(pos_data + begin * D, pos_data + end * D, acc_t(0));
    for (int64_t b = 0; b < B; ++b)
      for (int64_t n = begin; n < end; ++n)
        add(pos_data + n * D, pos_data + n * D, from(b, n, scratch.data()), D);
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> unshuffle_backward(const at::Tensor& grad, const at::Tensor& ids_restore,
                                                                  int64_t num_tokens, at::ScalarType dtype,
                                                                  bool need_mask, bool need_pos) {
  TORCH_CHECK(grad.dim() == 3 && ids_restore.dim() == 2 && grad.size(1) == 1 + ids_restore.size(1) && num_tokens >= 1,
              "unshuffle_backward: grad has shape ", grad.sizes(), ", ids_restore ", ids_restore.sizes());
  const int64_t B = grad.size(0), N = grad.size(1), D = grad.size(2);
  const std::vector<int64_t> ids = checked_ids(ids_restore, B, N - 1, "unshuffle_backward");
  const bool is_double = grad.scalar_type() == at::kDouble;
  const auto sums = grad.options().dtype(is_double ? at::kDouble : at::kFloat);
  at::Tensor grad_tokens = at::empty({B, num_tokens, D}, grad.options().dtype(dtype));
  at::Tensor grad_mask = at::empty({need_mask ? D : 0}, sums);
  at::Tensor grad_pos = need_pos ? at::empty({N, D}, sums) : at::empty({0, 0}, sums);
  (is_double ? run_backward<double> : run_backward<float>)(grad, ids, grad_tokens, grad_mask, grad_pos);
  return {grad_tokens, grad_mask, grad_pos};
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("unshuffle", mae_fast::unshuffle);
  m.impl("unshuffle_backward", mae_fast::unshuffle_backward);
}
