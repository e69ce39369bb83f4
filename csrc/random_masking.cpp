// random_masking for CPU tensors: which patches stay, by sorting their noise.
//
//   ids_shuffle = stable argsort of noise,   ids_restore = its inverse,   mask = ids_restore >= len_keep
//
// noise: float (B, L), any strides; the three results (B, L). A number's bits, read as an integer, are in the order of
// the numbers once the negative ones are inverted. That integer with the index below it is one key: keys are all
// different, so any sort of them is stable.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace mae_fast {
namespace {

constexpr int64_t GRAIN = 1024;  // numbers worth handing to another thread

// Integers in the order of the numbers: zeros equal, NaN last.
uint32_t order_of(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x == 0 ? 0.0f : x), sign = uint32_t(1) << 31;
  return std::isnan(x) ? std::numeric_limits<uint32_t>::max() : bits & sign ? ~bits : bits | sign;
}

uint64_t order_of(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x == 0 ? 0.0 : x), sign = uint64_t(1) << 63;
  return std::isnan(x) ? std::numeric_limits<uint64_t>::max() : bits & sign ? ~bits : bits | sign;
}

template <typename scalar_t, typename acc_t, typename key_t>
void run(const at::Tensor& noise, int64_t len_keep, at::Tensor& ids_shuffle, at::Tensor& ids_restore,
         at::Tensor& mask) {
  const int64_t B = noise.size(0), L = noise.size(1), stride_b = noise.stride(0), stride_l = noise.stride(1);
  const scalar_t* noise_data = noise.const_data_ptr<scalar_t>();
  int64_t *shuffle_data = ids_shuffle.mutable_data_ptr<int64_t>(),
          *restore_data = ids_restore.mutable_data_ptr<int64_t>();
  float* mask_data = mask.mutable_data_ptr<float>();
  at::parallel_for(0, B, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, L)), [&](int64_t begin, int64_t end) {
    std::vector<key_t> keys(L);
    for (int64_t b = begin; b < end; ++b) {
      const scalar_t* row = noise_data + b * stride_b;
      for (int64_t l = 0; l < L; ++l) keys[l] = key_t(order_of(static_cast<acc_t>(row[l * stride_l]))) << 32 | l;
      std::sort(keys.begin(), keys.end());
      for (int64_t i = 0; i < L; ++i) {
        const auto l = static_cast<uint32_t>(keys[i]);
        shuffle_data[b * L + i] = l;
        restore_data[b * L + l] = i;
        mask_data[b * L + l] = i >= len_keep;
      }
    }
  });
}

}  // namespace

std::tuple<at::Tensor, at::Tensor, at::Tensor> random_masking(const at::Tensor& noise, int64_t len_keep) {
  TORCH_CHECK(noise.dim() == 2, "random_masking: noise has shape ", noise.sizes());
  TORCH_CHECK(noise.size(1) <= std::numeric_limits<uint32_t>::max(), "random_masking: an index has 32 bits of a key");
  at::Tensor ids_shuffle = at::empty(noise.sizes(), noise.options().dtype(at::kLong));
  at::Tensor ids_restore = at::empty(noise.sizes(), ids_shuffle.options());
  at::Tensor mask = at::empty(noise.sizes(), noise.options().dtype(at::kFloat));
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, noise.scalar_type(), "random_masking", [&] {
    if constexpr (std::is_same_v<scalar_t, double>)
      run<double, double, unsigned __int128>(noise, len_keep, ids_shuffle, ids_restore, mask);
    else
      run<scalar_t, float, uint64_t>(noise, len_keep, ids_shuffle, ids_restore, mask);
  });
  return {ids_shuffle, ids_restore, mask};
}

}  // namespace mae_fast

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("random_masking", mae_fast::random_masking);
}
