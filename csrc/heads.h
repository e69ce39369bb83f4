// What attention.cpp is made of: rows of one head, the packing brgemm wants, and a thread's memory.
//
// brgemm computes C = A B with C in float32, A row-major, and B row-major for float32. For bfloat16, B holds two rows
// interleaved: (b[0][j], b[1][j]), so that each 32-bit word is one step of a two-element dot product ("VNNI"). A word
// is therefore one float or two bfloat16; both kinds of packing below move words.

#pragma once

#include "sanitized.h"
#include "vectors.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>

namespace mae_fast {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

template <typename T>
constexpr int64_t per_word = sizeof(float) / sizeof(T);

template <typename T>
struct Rows {
  const T* data;
  int64_t ld;

  const T* operator[](int64_t i) const { return data + i * ld; }
  Rows from(int64_t i) const { return {data + i * ld, ld}; }
};

// Memory of one thread that grows to what the largest call needed and is kept.
class Buffer {
 public:
  template <typename T>
  T* of(int64_t n) {
    const size_t bytes = round_up(n * sizeof(T), 64);
    if (bytes > capacity_) {
      data_.reset(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      capacity_ = bytes;
    }
    expose(data_.get(), n * sizeof(T), capacity_);
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t capacity_ = 0;
};

// Rounding of a sum grows with its terms: a longer one is formed from sums of this many.
constexpr int64_t kTerms = 64;

template <typename T>
void product(int64_t m, int64_t n, int64_t k, Rows<T> a, Rows<T> b, float* c, int64_t ld_c, bool add = false) {
  constexpr int64_t R = per_word<T>;
  check_extent("a", a.data, m, k, a.ld);
  check_extent("b", b.data, k / R, n * R, b.ld * R);
  check_extent("c", c, m, n, ld_c);
  const int64_t step = R == 1 ? kTerms : k;  // the rounding of bfloat16 is larger
  for (int64_t i = 0; i < k; i += step)
    at::native::cpublas::brgemm(m, n, std::min(step, k - i), a.ld, b.ld, ld_c, add || i, a.data + i, b.from(i).data, c,
                                R == 2);
}

// (rows, columns) words -> (columns, rows) words.
inline void transpose(const float* x, int64_t rows, int64_t columns, int64_t ld_x, float* out, int64_t ld_out) {
  for (int64_t i = 0; i < rows; i += 16)
    for (int64_t j = 0; j < columns; j += 16) {
      const float* from = x + i * ld_x + j;
      float* to = out + j * ld_out + i;
      if (i + 16 <= rows && j + 16 <= columns)
        at::vec::transpose_mxn<float, 16, 16>(from, ld_x, to, ld_out);
      else
        at::vec::transpose_mxn<float>(from, ld_x, to, ld_out, std::min<int64_t>(16, rows - i),
                                      std::min<int64_t>(16, columns - j));
    }
}

// Two rows of bfloat16 as one of words, the even row in the low halves.
inline void interleave(const c10::BFloat16* even, const c10::BFloat16* odd, int64_t n, c10::BFloat16* out) {
  const auto *low = reinterpret_cast<const uint16_t*>(even), *high = reinterpret_cast<const uint16_t*>(odd);
  auto* words = reinterpret_cast<uint32_t*>(out);
  for (int64_t i = 0; i < n; ++i) words[i] = low[i] | static_cast<uint32_t>(high[i]) << 16;
}

// x (rows, D) as the right-hand side of a product over D: x^T, (D, width), columns beyond `rows` zero.
template <typename T>
Rows<T> pack_transposed(Rows<T> x, int64_t rows, int64_t D, int64_t width, Buffer& buffer) {
  const int64_t words = D / per_word<T>;
  float* out = buffer.of<float>(words * width);
  transpose(reinterpret_cast<const float*>(x.data), rows, words, x.ld / per_word<T>, out, width);
  for (int64_t j = 0; j < words; ++j) std::fill(out + j * width + rows, out + (j + 1) * width, 0.f);
  return {reinterpret_cast<const T*>(out), width};
}

// x (rows, D) as the right-hand side of a product over its rows; an odd row's partner is zero.
template <typename T>
Rows<T> pack(Rows<T> x, int64_t rows, int64_t D, Buffer& buffer) {
  if constexpr (per_word<T> == 1) {
    return x;
  } else {
    T* out = buffer.of<T>(round_up(rows, 2) * D);
    for (int64_t i = 0; i + 1 < rows; i += 2) interleave(x[i], x[i + 1], D, out + i * D);
    if (rows % 2)
      for (int64_t j = 0; j < D; ++j) {
        out[(rows - 1) * D + 2 * j] = x[rows - 1][j];
        out[(rows - 1) * D + 2 * j + 1] = T(0);
      }
    return {out, D};
  }
}

// Rows as T: where they are, or as a float32 copy.
template <typename T, typename S>
Rows<T> widen(Rows<S> x, int64_t rows, int64_t D, Buffer& buffer) {
  if constexpr (std::is_same_v<S, T>) {
    return x;
  } else {
    T* out = buffer.of<T>(rows * D);
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < D; ++j) out[i * D + j] = static_cast<T>(x[i][j]);
    return {out, D};
  }
}

// A row of results, past the caches where it is whole vectors.
template <typename T>
void store_scaled(const float* x, float scale, int64_t n, T* out) {
  using Vector = at::vec::Vectorized<T>;
  if (n % Vector::size() || reinterpret_cast<uintptr_t>(out) % sizeof(Vector))
    return for_each_vector(
        n, [&](int64_t j, int64_t count) { store(load(x + j, count) * Float(scale), out + j, count); });
  for (int64_t j = 0; j < n; j += Vector::size())
    if constexpr (std::is_same_v<T, float>)
      stream(load(x + j) * Float(scale), out + j);
    else
      stream(narrow<T>(load(x + j) * Float(scale), load(x + j + Float::size()) * Float(scale)), out + j);
}

// sums += scale * the column sums of x (rows, D)
template <typename T>
void add_column_sums(Rows<T> x, int64_t rows, int64_t D, float scale, float* sums) {
  for_each_vector(D, [&](int64_t j, int64_t count) {
    Float sum(0);
    for (int64_t i = 0; i < rows; ++i) sum = sum + load(x[i] + j, count);
    store(load(sums + j, count) + sum * Float(scale), sums + j, count);
  });
}

// Whether oneDNN multiplies bfloat16 on this machine; asked once, by trying. PyTorch's own errors are c10::Error, those
// of oneDNN, which on AVX-512 without bfloat16 says no later than PyTorch expects, are not.
inline bool bfloat16_products() {
  if (!at::globalContext().userEnabledMkldnn()) return false;  // nothing to try, and it may be enabled later
  static const bool can = [] {
    try {
      const at::BFloat16 x[32 * 32] = {};
      float out[32 * 32];
      product(32, 32, 32, Rows<at::BFloat16>{x, 32}, Rows<at::BFloat16>{x, 32}, out, 32);
      at::native::cpublas::brgemm_release();
      return true;
    } catch (const std::exception&) {
      return false;
    }
  }();
  return can;
}

}  // namespace mae_fast
