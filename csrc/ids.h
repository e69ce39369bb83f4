// Bounds-check patch ids before anything is read or written with them; invert id -> slot.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mae_fast {

// ids (B, K), row after row. Each lies in 0..L-1, or this raises an IndexError.
inline std::vector<int64_t> checked_ids(const at::Tensor& ids, int64_t B, int64_t L, const char* op) {
  TORCH_CHECK(ids.dim() == 2 && ids.scalar_type() == at::kLong && ids.size(0) == B, op, ": expected ids int64 (", B,
              ", K), got ", ids.scalar_type(), " ", ids.sizes());
  const int64_t K = ids.size(1), stride_b = ids.stride(0), stride_k = ids.stride(1);
  const int64_t* data = ids.const_data_ptr<int64_t>();
  std::vector<int64_t> rows(B * K);
  bool inside = true;
  for (int64_t b = 0; b < B; ++b)
    for (int64_t k = 0; k < K; ++k) {
      const int64_t id = rows[b * K + k] = data[b * stride_b + k * stride_k];
      inside &= 0 <= id && id < L;
    }
  TORCH_CHECK_INDEX(inside, op, ": ids out of 0..", L - 1);
  return rows;
}

// (B, L): which k of image b lists a patch, -1 where none does.
inline std::vector<int64_t> k_of_patch(const std::vector<int64_t>& ids, int64_t B, int64_t K, int64_t L) {
  std::vector<int64_t> k_of(B * L, -1);
  for (int64_t b = 0; b < B; ++b)
    for (int64_t k = 0; k < K; ++k) k_of[b * L + ids[b * K + k]] = k;
  return k_of;
}

}  // namespace mae_fast
