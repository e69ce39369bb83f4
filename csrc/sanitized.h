// What the address sanitizer (`make sanitize`) cannot see by itself: reads and writes past the part of a kept buffer
// that was asked for, reads of what nothing has written, and those of machine code that oneDNN generates. Else, nothing.

#pragma once

#include <cstddef>

#ifdef __SANITIZE_ADDRESS__

#include <c10/util/Exception.h>
#include <sanitizer/asan_interface.h>

#include <cstring>

namespace mae_fast {

// The first `bytes` of a buffer are free to use, and all NaN.
inline void expose(void* data, size_t bytes, size_t capacity) {
  __asan_unpoison_memory_region(data, capacity);
  std::memset(data, 0xff, bytes);
  __asan_poison_memory_region(static_cast<char*>(data) + bytes, capacity - bytes);
}

template <typename T>
void check_extent(const char* what, const T* data, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t ld) {
  for (ptrdiff_t i = 0; i < rows; ++i)
    TORCH_CHECK(!__asan_region_is_poisoned(const_cast<T*>(data + i * ld), columns * sizeof(T)), what, ": row ", i,
                " of ", rows, " x ", columns, ", ", ld, " apart, is not all there");
}

}  // namespace mae_fast

#else

namespace mae_fast {

inline void expose(void*, size_t, size_t) {}
template <typename T>
void check_extent(const char*, const T*, ptrdiff_t, ptrdiff_t, ptrdiff_t) {}

}  // namespace mae_fast

#endif
