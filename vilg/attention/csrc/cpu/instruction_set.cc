#include "instruction_set.h"

#include <stdlib.h>
#include <string.h>

#include "../attention.h"

const vilg::InstructionSet& vilg::instruction_set() {
  static const InstructionSet chosen = [] {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const InstructionSet sets[] = {{"avx512", kernels_avx512, row_kernels_avx512, element_kernels_avx512, avx512},
                                   {"avx2", kernels_avx2, row_kernels_avx2, element_kernels_avx2, avx2},
                                   {"plain", kernels_plain, row_kernels_plain, element_kernels_plain, true}};
#else
    const InstructionSet sets[] = {{"plain", kernels_plain, row_kernels_plain, element_kernels_plain, true}};
#endif
    const char* wanted = getenv("VILG_ATTENTION_ISA");
    for (const auto& set : sets)
      if (set.here && wanted && !strcmp(set.name, wanted)) return set;
    for (const auto& set : sets)
      if (set.here) return set;
    return sets[0];
  }();
  return chosen;
}

extern "C" const char* vilg_attention_isa(void) { return vilg::instruction_set().name; }
