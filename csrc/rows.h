// The rows of a (B, N, D) tensor of any float type, computed with as acc_t: float, or double where a tensor is double.
//
// A kernel is written once for acc_t. What type a tensor holds is decided once a call, by a function pointer, and not
// by one more template argument a tensor: that made forty kernels of masked_mse. A converted row is still in the
// first-level cache when it is used, so the second pass over it costs little beside the memory.

#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <cstring>
#include <type_traits>

namespace mae_fast {

template <typename from_t, typename to_t>
void convert_numbers(const void* from_data, void* to_data, int64_t n) {
  const from_t* from = static_cast<const from_t*>(from_data);
  to_t* to = static_cast<to_t*>(to_data);
  if constexpr (at::vec::is_reduced_floating_point_v<from_t> && std::is_same_v<to_t, float>) {
    // at::vec::convert has vectors for the way from float, but one number at a time for the way back.
    using Halves = at::vec::Vectorized<from_t>;
    for (; n >= Halves::size(); n -= Halves::size(), from += Halves::size(), to += Halves::size()) {
      const auto [low, high] = at::vec::convert_to_float<from_t>(Halves::loadu(from));
      low.store(to);
      high.store(to + Halves::size() / 2);
    }
  }
  at::vec::convert(from, to, n);
}

using Convert = void (*)(const void* from, void* to, int64_t n);

template <typename acc_t>
class RowReader {
 public:
  explicit RowReader(const at::Tensor& x)
      : x_(x.size(2) == 1 || x.stride(2) == 1 ? x : x.contiguous()),
        data_(static_cast<const char*>(x_.const_data_ptr())),
        stride_b_(x_.stride(0) * x_.element_size()),
        stride_n_(x_.stride(1) * x_.element_size()) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "RowReader",
                                    [&] { convert_ = convert_numbers<scalar_t, acc_t>; });
    in_place_ = x.scalar_type() == c10::CppTypeToScalarType<acc_t>::value;
  }

  // Row n of b: the tensor's own memory where it holds acc_t, else scratch.
  const acc_t* operator()(int64_t b, int64_t n, acc_t* scratch) const {
    const char* row = data_ + b * stride_b_ + n * stride_n_;
    if (in_place_) return reinterpret_cast<const acc_t*>(row);
    convert_(row, scratch, x_.size(2));
    return scratch;
  }

 private:
  at::Tensor x_;  // keeps the copy alive where one was made
  const char* data_;
  int64_t stride_b_, stride_n_;
  Convert convert_;
  bool in_place_;
};

// The same for a new, contiguous tensor: its row is b * N + n.
template <typename acc_t>
class RowWriter {
 public:
  explicit RowWriter(at::Tensor& x)
      : data_(static_cast<char*>(x.mutable_data_ptr())), width_(x.size(-1)), bytes_(width_ * x.element_size()) {
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "RowWriter",
                                    [&] { convert_ = convert_numbers<acc_t, scalar_t>; });
    in_place_ = x.scalar_type() == c10::CppTypeToScalarType<acc_t>::value;
  }

  // Where to compute a row before `write`.
  acc_t* place(int64_t row, acc_t* scratch) const {
    return in_place_ ? reinterpret_cast<acc_t*>(data_ + row * bytes_) : scratch;
  }

  void write(int64_t row, const acc_t* numbers) const {
    void* to = data_ + row * bytes_;
    if (to != numbers) convert_(numbers, to, width_);
  }

  void copy(int64_t row, const void* same_type) const { std::memcpy(data_ + row * bytes_, same_type, bytes_); }

  void clear(int64_t row) const { std::memset(data_ + row * bytes_, 0, bytes_); }

 private:
  char* data_;
  int64_t width_, bytes_;
  Convert convert_;
  bool in_place_;
};

}  // namespace mae_fast
