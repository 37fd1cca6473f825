/* The widest instruction set that this processor supports, and the kernels that are compiled for it. */
#pragma once
#include "element_kernels.h"
#include "kernels.h"
#include "row_kernels.h"

namespace vilg {

struct InstructionSet {
  const char* name;
  const Kernels* (*attention)(int64_t head_size);
  const RowKernels* (*rows)();
  const ElementKernels* (*elements)();
  bool here; /* supported by this processor */
};

/* Chosen at the first call. VILG_ATTENTION_ISA can select a narrower one; other values are ignored. */
const InstructionSet& instruction_set();

}  // namespace vilg
