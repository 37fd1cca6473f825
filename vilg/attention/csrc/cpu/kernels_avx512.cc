#define VILG_ISA avx512
#define VILG_LANES 16
#define VILG_REGISTERS 32
#include "head.h"

const vilg::Kernels* vilg::kernels_avx512(int64_t head_size) { return avx512::kernels(head_size); }
const vilg::RowKernels* vilg::row_kernels_avx512() { return avx512::row_kernels(); }
const vilg::ElementKernels* vilg::element_kernels_avx512() { return avx512::element_kernels(); }
