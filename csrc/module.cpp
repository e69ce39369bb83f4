// The empty Python module mae_fast._C (or _C_avx2 ..: the same sources for another instruction set). Loading it hands
// the kernels to PyTorch's dispatcher: each file registers its own. The schemas are in mae_fast/ops/.

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
