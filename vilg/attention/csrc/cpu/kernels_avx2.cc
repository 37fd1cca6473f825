#define VILG_ISA avx2
#define VILG_LANES 8
#define VILG_REGISTERS 16
#include "head.h"

const vilg::Kernels* vilg::kernels_avx2(int64_t head_size) { return avx2::kernels(head_size); }
const vilg::RowKernels* vilg::row_kernels_avx2() { return avx2::row_kernels(); }
const vilg::ElementKernels* vilg::element_kernels_avx2() { return avx2::element_kernels(); }
