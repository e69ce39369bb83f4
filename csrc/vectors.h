// A vector of float32, loaded from and stored to any of the types the kernels take.

#pragma once

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <c10/util/BFloat16.h>

#include <bit>

namespace mae_fast {

using Float = at::vec::Vectorized<float>;

template <typename T>
Float load(const T* x, int64_t count = Float::size()) {
  if constexpr (std::is_same_v<T, float>)
    return Float::loadu(x, count);
  else
    return at::vec::convert<float>(at::vec::Vectorized<T>::loadu(x, count));
}

template <typename T>
void store(Float x, T* out, int64_t count = Float::size()) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, c10::BFloat16>) {
    const auto y = std::bit_cast<__m256i>(_mm512_cvtneps_pbh(x));
    if (count == Float::size()) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), y);
    return _mm256_mask_storeu_epi16(out, (1u << count) - 1, y);
  }
#endif
  if constexpr (std::is_same_v<T, float>)
    x.store(out, count);
  else
    at::vec::convert<T>(x).store(out, count);
}

// Two vectors as one of half the width.
template <typename T>
at::vec::Vectorized<T> narrow(Float low, Float high) {
#if defined(CPU_CAPABILITY_AVX512) && defined(__AVX512BF16__)
  if constexpr (std::is_same_v<T, c10::BFloat16>) return std::bit_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
#endif
  return at::vec::convert_from_float<T>(low, high);
}

// Writes an aligned vector past the caches: the line need not be read first. For results that this thread does not read
// again; before other threads do, `finish_streams`.
template <typename T>
void stream(at::vec::Vectorized<T> x, T* out) {
#if defined(CPU_CAPABILITY_AVX512)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(out), std::bit_cast<__m512i>(x));
#elif defined(CPU_CAPABILITY_AVX2)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(out), std::bit_cast<__m256i>(x));
#else
  x.store(out);
#endif
}

inline void finish_streams() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();
#endif
}

// f(j, count) for each vector of 0 .. n - 1, the last one perhaps short. Full vectors get a constant, which inlines.
template <typename F>
void for_each_vector(int64_t n, const F& f) {
  int64_t j = 0;
  for (; j + Float::size() <= n; j += Float::size()) f(j, Float::size());
  if (j < n) f(j, n - j);
}

}  // namespace mae_fast
