// The softmax of attention's scores, a row at a time forward, a block of queries at a time backward.

#pragma once

#include "heads.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace mae_fast {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// 20 ulp of float32, as in PyTorch's own softmax.
inline Float exponential(Float x) { return x.exp_u20(); }

// probs = exp(scale (scores - maximum)), zero beyond n -> scale * maximum and the sum of probs
template <typename T>
std::pair<float, float> softmax_row(float* scores, int64_t n, int64_t width, float scale, T* probs) {
  std::fill(scores + n, scores + width, -kInfinity);
  Float maximum(-kInfinity), sum(0);
  const auto larger = [](Float x, Float y) { return at::vec::clamp_min(x, y); };  // maximum() also looks for NaN
  for (int64_t j = 0; j < width; j += Float::size()) maximum = larger(maximum, Float::loadu(scores + j));
  const float top = scale * at::vec::vec_reduce_all<float>(larger, maximum);
  for (int64_t j = 0; j < width; j += Float::size()) {
    const Float p = exponential(at::vec::fmsub(Float::loadu(scores + j), Float(scale), Float(top)));
    sum = sum + p;
    store(p, probs + j);
  }
  return {top, at::vec::vec_reduce_all<float>([](Float x, Float y) { return x + y; }, sum)};
}

// Keys along the rows, queries of a block along the columns: p = exp(scale s - lse), ds = p (dp - delta), with delta
// the column sums of p dp. p is divided by its own sum, for lse was rounded. s is overwritten.
template <typename T>
void softmax_backward(float* s, const float* dp, const float* lse, int64_t keys, int64_t width, float scale, T* p_out,
                      T* ds_out) {
  for (int64_t i = 0; i < width; i += Float::size()) {
    const Float lse_i = Float::loadu(lse + i);
    Float sum(0), delta(0);
    for (int64_t begin = 0; begin < keys; begin += kTerms) {
      Float part_sum(0), part_delta(0);
      for (int64_t j = begin * width + i; j < std::min(begin + kTerms, keys) * width; j += width) {
        const Float p = exponential(at::vec::fmsub(Float::loadu(s + j), Float(scale), lse_i));
        part_sum = part_sum + p;
        part_delta = at::vec::fmadd(p, Float::loadu(dp + j), part_delta);
        p.store(s + j);
      }
      sum = sum + part_sum;
      delta = delta + part_delta;
    }
    const Float one_by_sum = Float(1) / sum;
    delta = delta * one_by_sum;
    for (int64_t j = i; j < keys * width; j += width) {
      const Float p = Float::loadu(s + j) * one_by_sum;
      store(p, p_out + j);
      store(p * (Float::loadu(dp + j) - delta), ds_out + j);
    }
  }
}

}  // namespace mae_fast
