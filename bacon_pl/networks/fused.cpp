// Blocks of the ConvNet in one pass over memory, for CPUs: [3x3 convolution of an image ->] instance norm -> ReLU ->
// 2x2 average pooling, forward and backward. Feature maps lie channels last, (B, H, W, F), so that a vector holds one
// pixel of LANES filters; a filter block of one image stays in the nearest caches while it is worked on in float32.
// Plain C interface: nothing of torch. Built by fused.py for the machine at hand. Results do not depend on the number
// of threads.

#include <cstdint>
#include <cstring>
#include <vector>

#include "fused_norm.h"

namespace {

template <class In, class Out>
void norm_forward(const In* x, const float* gamma, const float* beta, Out* out, float* mean, float* scale,
                  int64_t n, int64_t filters, int h, int w, float eps) {
    const int blocks = blocks_of(filters);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < n * blocks; ++p) {
        const int64_t image = p / blocks;
        const int block = static_cast<int>(p % blocks);
        const auto map = block_of(x + image * h * w * filters, filters, block);
        const Moments m = moments(map, static_cast<int64_t>(h) * w, eps);
        block_of(mean + image * filters, filters, block).set(0, m.mean);
        block_of(scale + image * filters, filters, block).set(0, m.scale);
        const Affine affine{block_of(gamma, filters, block)[0], block_of(beta, filters, block)[0]};
        pool(map, h, w, m, affine, block_of(out + image * (h / 2) * (w / 2) * filters, filters, block));
    }
}

template <class In, class Out>
void norm_backward(const In* x, const float* gamma, const float* beta, const float* mean, const float* scale,
                   const Out* gradient, In* d_x, float* d_gamma, float* d_beta, int64_t n, int64_t filters,
                   int h, int w) {
    const int blocks = blocks_of(filters);
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < n * blocks; ++p) {
        const int64_t image = p / blocks;
        const int block = static_cast<int>(p % blocks);
        const Moments m{block_of(mean + image * filters, filters, block)[0],
                        block_of(scale + image * filters, filters, block)[0]};
        const Affine affine{block_of(gamma, filters, block)[0], block_of(beta, filters, block)[0]};
        const Affine d = backward(block_of(x + image * h * w * filters, filters, block), h, w, m, affine,
                                  block_of(gradient + image * (h / 2) * (w / 2) * filters, filters, block),
                                  block_of(d_x + image * h * w * filters, filters, block));
        block_of(d_gamma + image * filters, filters, block).set(0, d.gamma);
        block_of(d_beta + image * filters, filters, block).set(0, d.beta);
    }
}

constexpr int SPREAD = 16;  // room for the nine taps of a filter
typedef float Wide __attribute__((vector_size(SPREAD * sizeof(float)), aligned(sizeof(Vec)), may_alias));

// Scratch memory that starts where a cache line does.
class Scratch {
    std::vector<Vec> room;

  public:
    explicit Scratch(int64_t floats) : room((floats + LANES - 1) / LANES) {}
    float* data() { return reinterpret_cast<float*>(room.data()); }
    void clear() { std::memset(static_cast<void*>(room.data()), 0, room.size() * sizeof(Vec)); }
};

// The first block: the image is padded once, and a filter block of its convolution never leaves the nearest caches.
struct Stem {
    int channels, h, w, padding, height, width, row;  // h, w of the image; height, width of the convolution
    Stem(int channels, int h, int w, int padding)
        : channels(channels), h(h), w(w), padding(padding), height(h + 2 * padding - 2), width(w + 2 * padding - 2),
          row(w + 2 * padding) {}
    int rows() const { return h + 2 * padding; }
    int64_t padded() const { return static_cast<int64_t>(channels) * rows() * row; }
    int64_t pixels() const { return static_cast<int64_t>(height) * width; }
    int64_t taps() const { return static_cast<int64_t>(channels) * 9; }

    void pad(const float* image, float* to) const {
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < h; ++i)
                std::memcpy(to + (static_cast<int64_t>(c) * rows() + i + padding) * row + padding,
                            image + (static_cast<int64_t>(c) * h + i) * w, w * sizeof(float));
    }

    // (filters, channels, 3, 3) -> (blocks, channels, 9, LANES), the last block filled up with zeros.
    void arrange(const float* weight, int64_t filters, float* to) const {
        for (int64_t f = 0; f < filters; ++f)
            for (int64_t k = 0; k < taps(); ++k)
                to[(f / LANES * taps() + k) * LANES + f % LANES] = weight[f * taps() + k];
    }

    void convolve(const float* image, const float* weight, Vec bias, float* map) const {
        for (int c = 0; c < channels; ++c) {
            Vec tap[9];
            for (int k = 0; k < 9; ++k) tap[k] = load(weight + (c * 9 + k) * LANES);
            for (int i = 0; i < height; ++i) {
                const float* from = image + (static_cast<int64_t>(c) * rows() + i) * row;
                float* to = map + static_cast<int64_t>(i) * width * LANES;
                for (int j = 0; j < width; ++j) {
                    Vec total = c ? load(to + j * LANES) : bias;
#pragma GCC unroll 9
                    for (int k = 0; k < 9; ++k) total += tap[k] * from[k / 3 * row + j + k % 3];
                    store(to + j * LANES, total);
                }
            }
        }
    }

    void weight_gradient(const float* image, const float* map, float* d_weight, int lanes) const {
        for (int c = 0; c < channels; ++c) {
            Vec total[9] = {};
            for (int i = 0; i < height; ++i) {
                const float* from = image + (static_cast<int64_t>(c) * rows() + i) * row;
                const float* d = map + static_cast<int64_t>(i) * width * LANES;
                for (int j = 0; j < width; ++j) {
                    const Vec here = load(d + j * LANES);
#pragma GCC unroll 9
                    for (int k = 0; k < 9; ++k) total[k] += here * from[k / 3 * row + j + k % 3];
                }
            }
            for (int k = 0; k < 9; ++k)
                for (int lane = 0; lane < lanes; ++lane) d_weight[lane * taps() + c * 9 + k] += total[k][lane];
        }
    }

    // What the padded image gets from every pixel of the map: tap k of channel c at k of (pixels, channels, SPREAD).
    void spread_gradient(const float* map, const float* weight, int lanes, float* spread) const {
        for (int c = 0; c < channels; ++c) {
            Wide taps[LANES] = {};  // one filter each
            for (int k = 0; k < 9; ++k)
                for (int lane = 0; lane < lanes; ++lane) taps[lane][k] = weight[(c * 9 + k) * LANES + lane];
            for (int64_t i = 0; i < pixels(); ++i) {
                Wide even{}, odd{};
#pragma GCC unroll 8
                for (int lane = 0; lane < LANES; lane += 2) {
                    even += taps[lane] * map[i * LANES + lane];
                    odd += taps[lane + 1] * map[i * LANES + lane + 1];
                }
                Wide& to = *reinterpret_cast<Wide*>(spread + (i * channels + c) * SPREAD);
                to += even + odd;
            }
        }
    }

    void image_gradient(const float* spread, float* padded, float* d_image) const {
        std::memset(padded, 0, this->padded() * sizeof(float));
        for (int i = 0; i < height; ++i)
            for (int j = 0; j < width; ++j)
                for (int c = 0; c < channels; ++c) {
                    const float* from = spread + ((static_cast<int64_t>(i) * width + j) * channels + c) * SPREAD;
                    float* to = padded + (static_cast<int64_t>(c) * rows() + i) * row + j;
                    for (int k = 0; k < 9; ++k) to[k / 3 * row + k % 3] += from[k];
                }
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < h; ++i)
                std::memcpy(d_image + (static_cast<int64_t>(c) * h + i) * w,
                            padded + (static_cast<int64_t>(c) * rows() + i + padding) * row + padding,
                            w * sizeof(float));
    }
};

template <class Out>
void stem_forward(const float* x, const float* weight, const float* bias, const float* gamma, const float* beta,
                  Out* out, float* mean, float* scale, int64_t n, int channels, int h, int w, int padding,
                  int64_t filters, float eps) {
    const Stem stem(channels, h, w, padding);
    const int blocks = blocks_of(filters);
    Scratch arranged(blocks * stem.taps() * LANES);
    stem.arrange(weight, filters, arranged.data());
#pragma omp parallel
    {
        Scratch image(stem.padded()), room(stem.pixels() * LANES);
        const Block<float> map{room.data(), LANES, LANES};
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n; ++b) {
            stem.pad(x + b * channels * h * w, image.data());
            for (int block = 0; block < blocks; ++block) {
                stem.convolve(image.data(), arranged.data() + block * stem.taps() * LANES,
                              block_of(bias, filters, block)[0], map.start);
                const Moments m = moments(map, stem.pixels(), eps);
                block_of(mean + b * filters, filters, block).set(0, m.mean);
                block_of(scale + b * filters, filters, block).set(0, m.scale);
                const Affine affine{block_of(gamma, filters, block)[0], block_of(beta, filters, block)[0]};
                pool(map, stem.height, stem.width, m, affine,
                     block_of(out + b * (stem.height / 2) * (stem.width / 2) * filters, filters, block));
            }
        }
    }
}

// Gradients by weights are per image, to be summed by the caller. The convolution's bias has none: the norm takes any
// constant out of a map. d_x or d_weight may be null.
template <class Out>
void stem_backward(const float* x, const float* weight, const float* bias, const float* gamma, const float* beta,
                   const float* mean, const float* scale, const Out* gradient, float* d_x, float* d_weight,
                   float* d_gamma, float* d_beta, int64_t n, int channels, int h, int w, int padding, int64_t filters) {
    const Stem stem(channels, h, w, padding);
    const int blocks = blocks_of(filters);
    Scratch arranged(blocks * stem.taps() * LANES);
    stem.arrange(weight, filters, arranged.data());
    if (d_weight) std::memset(d_weight, 0, n * filters * stem.taps() * sizeof(float));
#pragma omp parallel
    {
        Scratch image(stem.padded()), room(stem.pixels() * LANES);
        Scratch spread(d_x ? stem.pixels() * channels * SPREAD : 0), d_image(d_x ? stem.padded() : 0);
        const Block<float> map{room.data(), LANES, LANES};
#pragma omp for schedule(static)
        for (int64_t b = 0; b < n; ++b) {
            stem.pad(x + b * channels * h * w, image.data());
            spread.clear();
            for (int block = 0; block < blocks; ++block) {
                stem.convolve(image.data(), arranged.data() + block * stem.taps() * LANES,
                              block_of(bias, filters, block)[0], map.start);
                const Moments m{block_of(mean + b * filters, filters, block)[0],
                                block_of(scale + b * filters, filters, block)[0]};
                const Affine affine{block_of(gamma, filters, block)[0], block_of(beta, filters, block)[0]};
                const auto up =
                    block_of(gradient + b * (stem.height / 2) * (stem.width / 2) * filters, filters, block);
                const Affine d = backward(map, stem.height, stem.width, m, affine, up, map);
                block_of(d_gamma + b * filters, filters, block).set(0, d.gamma);
                block_of(d_beta + b * filters, filters, block).set(0, d.beta);
                if (d_weight)
                    stem.weight_gradient(image.data(), map.start,
                                         d_weight + (b * filters + static_cast<int64_t>(block) * LANES) * stem.taps(),
                                         up.lanes);
                if (d_x)
                    stem.spread_gradient(map.start, arranged.data() + block * stem.taps() * LANES, up.lanes,
                                         spread.data());
            }
            if (d_x) stem.image_gradient(spread.data(), d_image.data(), d_x + b * channels * h * w);
        }
    }
}

}  // namespace

// ``half``: the tensors marked void are bfloat16, else float; ``half_in`` says it of x, ``half_out`` of what is pooled.
extern "C" {

void bacon_norm_forward(const void* x, const float* gamma, const float* beta, void* out, float* mean, float* scale,
                        int64_t n, int64_t filters, int64_t h, int64_t w, float eps, int64_t half_in,
                        int64_t half_out) {
    const auto run = [&](const auto* maps, auto* pooled) {
        norm_forward(maps, gamma, beta, pooled, mean, scale, n, filters, h, w, eps);
    };
    const auto read = [&](const auto* maps) {
        if (half_out)
            run(maps, static_cast<uint16_t*>(out));
        else
            run(maps, static_cast<float*>(out));
    };
    if (half_in)
        read(static_cast<const uint16_t*>(x));
    else
        read(static_cast<const float*>(x));
}

void bacon_norm_backward(const void* x, const float* gamma, const float* beta, const float* mean, const float* scale,
                         const void* gradient, void* d_x, float* d_gamma, float* d_beta, int64_t n, int64_t filters,
                         int64_t h, int64_t w, int64_t half_in, int64_t half_out) {
    const auto run = [&](const auto* maps, const auto* down, auto* d_maps) {
        norm_backward(maps, gamma, beta, mean, scale, down, d_maps, d_gamma, d_beta, n, filters, h, w);
    };
    const auto read = [&](const auto* maps, auto* d_maps) {
        if (half_out)
            run(maps, static_cast<const uint16_t*>(gradient), d_maps);
        else
            run(maps, static_cast<const float*>(gradient), d_maps);
    };
    if (half_in)
        read(static_cast<const uint16_t*>(x), static_cast<uint16_t*>(d_x));
    else
        read(static_cast<const float*>(x), static_cast<float*>(d_x));
}

void bacon_stem_forward(const float* x, const float* weight, const float* bias, const float* gamma, const float* beta,
                        void* out, float* mean, float* scale, int64_t n, int64_t channels, int64_t h, int64_t w,
                        int64_t padding, int64_t filters, float eps, int64_t half) {
    if (half)
        stem_forward(x, weight, bias, gamma, beta, static_cast<uint16_t*>(out), mean, scale, n, channels, h, w, padding,
                     filters, eps);
    else
        stem_forward(x, weight, bias, gamma, beta, static_cast<float*>(out), mean, scale, n, channels, h, w, padding,
                     filters, eps);
}

void bacon_stem_backward(const float* x, const float* weight, const float* bias, const float* gamma, const float* beta,
                         const float* mean, const float* scale, const void* gradient, float* d_x, float* d_weight,
                         float* d_gamma, float* d_beta, int64_t n, int64_t channels, int64_t h, int64_t w, int64_t padding,
                         int64_t filters, int64_t half) {
    if (half)
        stem_backward(x, weight, bias, gamma, beta, mean, scale, static_cast<const uint16_t*>(gradient), d_x, d_weight,
                      d_gamma, d_beta, n, channels, h, w, padding, filters);
    else
        stem_backward(x, weight, bias, gamma, beta, mean, scale, static_cast<const float*>(gradient), d_x, d_weight,
                      d_gamma, d_beta, n, channels, h, w, padding, filters);
}
}
