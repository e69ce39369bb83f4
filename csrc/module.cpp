// mae_fast._C: an empty Python module. Importing it runs the TORCH_LIBRARY_IMPL blocks of the other files, which hand
// their kernels to PyTorch's dispatcher; the schemas live in mae_fast/ops.py.

#include <Python.h>

PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
