// The empty Python module mae_fast._C (or _C_avx2 ..: the same sources for another instruction set). Importing it hands
// the kernels to PyTorch's dispatcher; the schemas live in mae_fast/ops/. All in one file: torch/library.h takes 5 seconds.

#include <Python.h>

#include "ops.h"

#include <torch/library.h>

TORCH_LIBRARY_IMPL(mae_fast, CPU, m) {
  m.impl("random_masking", mae_fast::random_masking);
  m.impl("gather_patches", mae_fast::gather_patches);
  m.impl("gather_patches_backward", mae_fast::gather_patches_backward);
  m.impl("unshuffle", mae_fast::unshuffle);
  m.impl("unshuffle_backward", mae_fast::unshuffle_backward);
  m.impl("masked_mse", mae_fast::masked_mse);
  m.impl("masked_mse_backward", mae_fast::masked_mse_backward);
  m.impl("attention", mae_fast::attention);
  m.impl("attention_backward", mae_fast::attention_backward);
  m.impl("bias_gelu", mae_fast::bias_gelu);
  m.impl("bias_gelu_backward", mae_fast::bias_gelu_backward);
  m.impl("add_layer_norm", mae_fast::add_layer_norm);
  m.impl("add_layer_norm_backward", mae_fast::add_layer_norm_backward);
}

#define CONCAT(a, b) a##b
#define INIT(name) CONCAT(PyInit_, name)
#define STRING_OF(name) #name
#define STRING(name) STRING_OF(name)

PyMODINIT_FUNC INIT(TORCH_EXTENSION_NAME)() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, STRING(TORCH_EXTENSION_NAME), nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
