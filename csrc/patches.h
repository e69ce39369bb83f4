// How a patch lies in an image: what gather_patches and masked_mse share (kernels/patches.py is the same on a GPU).
//
// An image is seen as (b, c, y, x) with any strides, whether it came as float (B, C, H, W) or as uint8 (B, H, W, C). A
// patch is P = p*p*C numbers in the order (y, x, c), those of uint8 images brought to (value / 255 - mean) / std:
//
// * interleaved (uint8 NHWC, channels_last): a line of a patch is one run of p*C numbers, in the order wanted;
// * every other layout: C numbers a pixel, from as many places.

#pragma once

#include "rows.h"

#include <vector>

namespace mae_fast {

// C, H, W of the images, and how many patches lie in one, L.
struct ImageShape {
  bool nhwc;
  int64_t C, H, W, L;

  ImageShape(const at::Tensor& imgs, int64_t patch, const char* op) : nhwc(imgs.scalar_type() == at::kByte) {
    TORCH_CHECK(imgs.dim() == 4 && patch > 0, op, ": images ", imgs.sizes(), ", patch size ", patch);
    C = imgs.size(nhwc ? 3 : 1), H = imgs.size(nhwc ? 1 : 2), W = imgs.size(nhwc ? 2 : 3);
    L = (H / patch) * (W / patch);
  }
};

// Reads patches; one for each thread, since it has a buffer.
template <typename acc_t>
class Patches {
 public:
  Patches(const at::Tensor& imgs, int64_t patch, at::ArrayRef<double> mean, at::ArrayRef<double> std)
      : data_(static_cast<const char*>(imgs.const_data_ptr())), element_size_(imgs.element_size()), patch_(patch) {
    const ImageShape shape(imgs, patch, "patches");
    channels_ = shape.C;
    patches_per_line_ = shape.W / patch;
    stride_b_ = imgs.stride(0);
    stride_c_ = imgs.stride(shape.nhwc ? 3 : 1);
    stride_y_ = imgs.stride(shape.nhwc ? 1 : 2);
    stride_x_ = imgs.stride(shape.nhwc ? 2 : 3);
    if (shape.nhwc) {
      TORCH_CHECK(static_cast<int64_t>(mean.size()) == channels_ && mean.size() == std.size(),
                  "mean and std: expected ", channels_, " numbers each");
      bytes_.resize(patch * patch * channels_);
      for (size_t i = 0; i < bytes_.size(); ++i) {
        const size_t c = i % channels_;
        scale_.push_back(c == i ? 1 / (255 * std[c]) : scale_[c]);
        shift_.push_back(c == i ? -mean[c] / std[c] : shift_[c]);
      }
    }
    const bool interleaved = stride_x_ == channels_ && (stride_c_ == 1 || channels_ == 1);
    AT_DISPATCH_FLOATING_TYPES_AND3(at::kByte, at::kBFloat16, at::kHalf, imgs.scalar_type(), "Patches", [&] {
      read_ = interleaved      ? &Patches::read_lines<scalar_t>
              : channels_ == 3 ? &Patches::read_pixels<scalar_t, 3>
                               : &Patches::read_pixels<scalar_t, 0>;
    });
  }

  // The P numbers of patch id of image b.
  void read(int64_t b, int64_t id, acc_t* out) { (this->*read_)(corner(b, id), out); }

 private:
  const char* corner(int64_t b, int64_t id) const {
    const int64_t line = id / patches_per_line_, column = id % patches_per_line_;
    return data_ + (b * stride_b_ + patch_ * (line * stride_y_ + column * stride_x_)) * element_size_;
  }

  template <typename img_t>
  void read_lines(const void* corner, acc_t* out) {
    const int64_t run = patch_ * channels_;
    const img_t* from = static_cast<const img_t*>(corner);
    if constexpr (std::is_same_v<img_t, uint8_t>) {
      // The bytes first: that many cache misses are under way at once, and one long loop follows, not p short ones.
      for (int64_t y = 0; y < patch_; ++y) std::memcpy(bytes_.data() + y * run, from + y * stride_y_, run);
      const uint8_t* __restrict bytes = bytes_.data();
      const acc_t *__restrict scale = scale_.data(), *__restrict shift = shift_.data();
      acc_t* __restrict to = out;
      for (int64_t i = 0; i < patch_ * run; ++i) to[i] = bytes[i] * scale[i] + shift[i];
    } else {
      for (int64_t y = 0; y < patch_; ++y) convert_numbers<img_t, acc_t>(from + y * stride_y_, out + y * run, run);
    }
  }

  // CHANNELS is their number where the compiler should know it, to interleave whole vectors, else 0.
  template <typename img_t, int CHANNELS>
  void read_pixels(const void* corner, acc_t* out) {
    const int64_t C = CHANNELS ? CHANNELS : channels_, patch = patch_, stride_c = stride_c_, stride_x = stride_x_;
    for (int64_t y = 0; y < patch; ++y, out += patch * C) {
      const img_t* __restrict line = static_cast<const img_t*>(corner) + y * stride_y_;
      acc_t* __restrict to = out;
      for (int64_t x = 0; x < patch; ++x)
        for (int64_t c = 0; c < C; ++c) {
          const acc_t value = static_cast<acc_t>(line[x * stride_x + c * stride_c]);
          to[x * C + c] = std::is_same_v<img_t, uint8_t> ? value * scale_[c] + shift_[c] : value;
        }
    }
  }

  const char* data_;
  int64_t element_size_, patch_, channels_, patches_per_line_, stride_b_, stride_c_, stride_y_, stride_x_;
  std::vector<uint8_t> bytes_;
  std::vector<acc_t> scale_, shift_;  // of the numbers of a patch: channel after channel, p*p times
  void (Patches::*read_)(const void* corner, acc_t* out);
};

}  // namespace mae_fast
