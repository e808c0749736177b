// What is native but no tensor operation: the noise's words, for tests, and the processor's instruction set.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "cross_entropy_chunks.h"
#include "tiles.h"

namespace py = pybind11;

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Kernels of mmpt; importing it registers torch.ops.mmpt.";
  m.def(
      "philox_words",
      [](uint64_t seed, uint64_t offset, uint64_t first, int64_t count) {
        const uint64_t skip = first % 4;
        std::vector<uint32_t> words((int64_t(skip) + count + 3) / 4 * 4);
        mmpt::instruction_set().sampling->words(seed, offset, first - skip, int64_t(words.size()), words.data());
        return py::array_t<uint32_t>(count, words.data() + skip);
      },
      py::arg("seed"), py::arg("offset"), py::arg("first"), py::arg("count"),
      "uint32 [count]: the Philox word of ids first, first + 1, ...");
#ifdef MMPT_CUDA
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
#ifdef _OPENMP
  m.attr("threads") = true;
#else
  m.attr("threads") = false;
#endif
  m.def("chunk_rows", &mmpt::chunk_rows, py::arg("rows"), py::arg("dimensions"), py::arg("row_bytes"),
        py::arg("multiprocessors"), "Rows of logits that the CUDA loss holds at once.");
  m.def(
      "instruction_set", [] { return std::string(mmpt::instruction_set().name); },
      "The instruction set in use: generic, avx2, avx512, avx512_bf16 or amx.");
  m.def(
      "screens_fast", [] { return mmpt::instruction_set().screen->fast; },
      "Whether the instruction set in use multiplies bytes, as a screen needs to be worth its memory.");
  m.def(
      "select_instruction_set", [](const std::string& name) { return mmpt::select_instruction_set(name.c_str()); },
      py::arg("name"), "Use another set ('' for the best); False where this processor cannot run it. For tests.");
}
