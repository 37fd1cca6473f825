/* Parses the int32 array that Tiles.packed() in vilg/attention/tiles.py writes. */
#pragma once
#include <stdint.h>

namespace vilg {

/* Compressed sparse rows (CSR): block b has the tiles starts[b] .. starts[b + 1] - 1. */
struct TileCSR {
  const int32_t* starts; /* [blocks + 1] */
  const int32_t* others; /* [tiles] index of the block on the other side, ascending within a block */
  const int32_t* kinds;  /* [tiles] index of the bit mask, -1 for a full tile */
  int32_t blocks;
};

struct Layout {
  int32_t length; /* S, the number of positions */
  int32_t padded; /* number of places in the tiled order, including padding */
  int32_t queries, keys, tiles, masks;
  const int32_t* order; /* [padded] sequence position at each place, -1 for padding */
  TileCSR by_query, by_key;
  const uint32_t* bits; /* [masks, keys, queries / 32]: bit i of word w says whether query 32 w + i sees the key */
};

/* Fills `layout` with pointers into `packed`. Only `header` is read, which has to be in host memory; `packed` is
   used as an address and may be in device memory. Returns the number of elements of the packed array, or 0 if the
   header is invalid or of another version. */
inline int64_t read_layout(const int32_t* header, const int32_t* packed, Layout* layout) {
  constexpr int32_t kVersion = 1, kHeader = 8;
  if (header[0] != kVersion) return 0;
  layout->length = header[1];
  layout->padded = header[2];
  layout->queries = header[3];
  layout->keys = header[4];
  layout->tiles = header[5];
  layout->masks = header[6];
  if (layout->queries <= 0 || layout->keys <= 0 || layout->padded <= 0 || layout->tiles < 0 || layout->masks < 0)
    return 0;
  const int32_t* next = packed + kHeader;
  auto take = [&next](int64_t count) {
    const int32_t* taken = next;
    next += count;
    return taken;
  };
  auto side = [&](int32_t blocks) {
    TileCSR c;
    c.starts = take(blocks + 1);
    c.others = take(layout->tiles);
    c.kinds = take(layout->tiles);
    c.blocks = blocks;
    return c;
  };
  layout->order = take(layout->padded);
  layout->by_query = side(layout->padded / layout->queries);
  layout->by_key = side(layout->padded / layout->keys);
  layout->bits = reinterpret_cast<const uint32_t*>(take(int64_t(layout->masks) * layout->keys * (layout->queries / 32)));
  return next - packed;
}

}  // namespace vilg
