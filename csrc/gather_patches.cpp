// gather_patches for CPU tensors: the wanted patches, normalised and cast, each read once and written once.
//
//   out[b, k] = patch ids[b, k] of image b, in (y, x, c) order (patches.h)
//
// imgs: float (B, C, H, W) or uint8 (B, H, W, C), any strides; ids: int64 (B, K); out: (B, K, P), P = p*p*C. Backward:
// the gradient (B, C, H, W), zero but in the wanted patches, a line of patches at a time.

#include "ids.h"
#include "patches.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

namespace mae_fast {
namespace {

constexpr int64_t GRAIN = 16;  // patches worth handing to another thread

template <typename acc_t>
void run(const at::Tensor& imgs, const std::vector<int64_t>& ids, int64_t patch, at::ArrayRef<double> mean,
         at::ArrayRef<double> std, at::Tensor& out) {
  const int64_t K = out.size(1), P = out.size(2);
  const RowWriter<acc_t> rows(out);
  at::parallel_for(0, ids.size(), GRAIN, [&](int64_t begin, int64_t end) {
    Patches<acc_t> patches(imgs, patch, mean, std);
    std::vector<acc_t> scratch(P);
    for (int64_t row = begin; row < end; ++row) {
      acc_t* numbers = rows.place(row, scratch.data());
      patches.read(row / K, ids[row], numbers);
      rows.write(row, numbers);
    }
  });
}

}  // namespace

at::Tensor gather_patches(const at::Tensor& imgs, const at::Tensor& ids, int64_t patch, at::ArrayRef<double> mean,
                          at::ArrayRef<double> std, at::ScalarType dtype) {
  const ImageShape shape(imgs, patch, "gather_patches");
  const std::vector<int64_t> checked = checked_ids(ids, imgs.size(0), shape.L, "gather_patches");
  at::Tensor out = at::empty({imgs.size(0), ids.size(1), patch * patch * shape.C}, imgs.options().dtype(dtype));
  const bool is_double = dtype == at::kDouble || imgs.scalar_type() == at::kDouble;
  (is_double ? run<double> : run<float>)(imgs, checked, patch, mean, std, out);
  return out;
}

namespace {

// Numbers are only moved here, as words of their size. CHANNELS as in patches.h.
template <typename word_t, int CHANNELS>
void write_patch(const word_t* numbers, word_t* corner, int64_t patch, int64_t channels, int64_t stride_c,
                 int64_t stride_y) {
  const int64_t C = CHANNELS ? CHANNELS : channels;
  for (int64_t y = 0; y < patch; ++y) {
    const word_t* __restrict from = numbers + y * patch * C;
    word_t* __restrict to = corner + y * stride_y;
    for (int64_t x = 0; x < patch; ++x)
      for (int64_t c = 0; c < C; ++c) to[c * stride_c + x] = from[x * C + c];
  }
}

// rows (B, K, P) and grad_imgs (B, C, H, W), contiguous and of the same type, which has the size of word_t.
template <typename word_t>
void run_backward(const at::Tensor& rows, const std::vector<int64_t>& ids, int64_t patch, at::Tensor& grad_imgs) {
  const int64_t B = rows.size(0), K = rows.size(1), P = rows.size(2), C = grad_imgs.size(1), H = grad_imgs.size(2),
                W = grad_imgs.size(3), lines = H / patch, columns = W / patch;
  const std::vector<int64_t> k_of = k_of_patch(ids, B, K, lines * columns);
  const word_t* row_data = static_cast<const word_t*>(rows.const_data_ptr());
  word_t* data = static_cast<word_t*>(grad_imgs.mutable_data_ptr());
  const auto write = C == 3 ? write_patch<word_t, 3> : write_patch<word_t, 0>;
  at::parallel_for(0, B * lines, /*grain_size=*/1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      // Cleared while it is about to be written: one line of patches, in every channel.
      const int64_t b = i / lines, line = i % lines;
      word_t* to = data + (b * C * H + line * patch) * W;
      for (int64_t c = 0; c < C; ++c) std::fill_n(to + c * H * W, patch * W, word_t(0));
      for (int64_t column = 0; column < columns; ++column)
        if (const int64_t k = k_of[i * columns + column]; k >= 0)
          write(row_data + (b * K + k) * P, to + column * patch, patch, C, H * W, W);
    }
  });
}

}  // namespace

at::Tensor gather_patches_backward(const at::Tensor& grad, const at::Tensor& ids, int64_t patch, at::IntArrayRef size,
                                   at::ScalarType dtype) {
  TORCH_CHECK(size.size() == 4 && patch > 0 && size[2] % patch == 0 && size[3] % patch == 0,
              "gather_patches_backward: images ", size, " are not whole patches of ", patch);
  const int64_t L = (size[2] / patch) * (size[3] / patch);
  const std::vector<int64_t> checked = checked_ids(ids, size[0], L, "gather_patches_backward");
  TORCH_CHECK(grad.dim() == 3 && grad.sizes().slice(0, 2) == ids.sizes() && grad.size(2) == patch * patch * size[1],
              "gather_patches_backward: grad has shape ", grad.sizes(), " for images ", size, " and ids ", ids.sizes());
  at::Tensor grad_imgs = at::empty(size, grad.options().dtype(dtype));
  const at::Tensor rows = grad.to(dtype).contiguous();
  const auto run = rows.element_size() == 2   ? run_backward<uint16_t>
                   : rows.element_size() == 4 ? run_backward<uint32_t>
                                              : run_backward<uint64_t>;
  run(rows, checked, patch, grad_imgs);
  return grad_imgs;
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("gather_patches", mae_fast::gather_patches);
  m.impl("gather_patches_backward", mae_fast::gather_patches_backward);
}
