/* The widest instruction set of this processor, and the kernels that were compiled for it. */
#pragma once
#include "kernels.h"
#include "row_kernels.h"

namespace vilg {

struct InstructionSet {
  const char* name;
  const Kernels* (*attention)(int64_t head_size);
  const RowKernels* (*rows)();
  bool here;
};

/* The same one at every call; VILG_ATTENTION_ISA may ask for a narrower one. */
const InstructionSet& instruction_set();

}  // namespace vilg
