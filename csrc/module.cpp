// The empty Python module mae_fast._C (or _C_avx2, _C_avx512: the same sources for another instruction set). Importing
// it runs the TORCH_LIBRARY_IMPL blocks of the other files, which hand their kernels to PyTorch's dispatcher; the
// schemas live in mae_fast/ops.py.

#include <Python.h>

#define CONCAT(a, b) a##b
#define INIT(name) CONCAT(PyInit_, name)
#define STRING_OF(name) #name
#define STRING(name) STRING_OF(name)

PyMODINIT_FUNC INIT(TORCH_EXTENSION_NAME)() {
  static PyModuleDef module = {
      PyModuleDef_HEAD_INIT, STRING(TORCH_EXTENSION_NAME), nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
