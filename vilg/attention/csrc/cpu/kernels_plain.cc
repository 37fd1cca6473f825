#define VILG_ISA plain
#define VILG_LANES 4
#define VILG_REGISTERS 16
#include "head.h"

const vilg::Kernels* vilg::kernels_plain(int64_t head_size) { return plain::kernels(head_size); }
const vilg::RowKernels* vilg::row_kernels_plain() { return plain::row_kernels(); }
const vilg::ElementKernels* vilg::element_kernels_plain() { return plain::element_kernels(); }
