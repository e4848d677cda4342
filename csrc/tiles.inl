// Included where tile instructions are compiled, inside a namespace.

// This thread's tile registers, all of full size; what another library had set comes back after.
class Tiles {
 public:
  Tiles() {
    _tile_storeconfig(before_);
    alignas(64) uint8_t config[64]{};
    config[0] = 1;  // palette
    for (int i = 0; i < 8; ++i) config[16 + 2 * i] = 64, config[48 + i] = 16;
    _tile_loadconfig(config);
  }
  ~Tiles() {
    if (before_[0])
      _tile_loadconfig(before_);
    else
      _tile_release();
  }

 private:
  alignas(64) uint8_t before_[64]{};
};

// Tile instructions do not tell the compiler what they read.
METASD_INLINE void written() { __asm__ volatile("" ::: "memory"); }
