// Blocks of the ConvNet in one pass over memory, for CPUs: [3x3 convolution of an image ->] instance norm -> ReLU ->
// 2x2 average pooling, forward and backward. Feature maps lie channels last, (B, H, W, F), so that a vector holds one
// pixel of LANES filters; a filter block of one image stays in the nearest caches while it is worked on in float32.
// Plain C interface: nothing of torch. Built by fused.py for the machine at hand. Results do not depend on the number
// of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace {

constexpr int LANES = 16;
constexpr int WAYS = 4;  // sums at a time, for each addition waits for its last
typedef float Vec __attribute__((vector_size(LANES * sizeof(float))));
typedef float Loose __attribute__((vector_size(LANES * sizeof(float)), aligned(4), may_alias));
typedef uint32_t Word __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t Half __attribute__((vector_size(LANES * sizeof(uint16_t)), aligned(2), may_alias));

inline Vec all(float x) { return Vec{} + x; }
inline Vec where_positive(Vec test, Vec value) { return test > 0 ? value : Vec{}; }
inline Vec relu(Vec v) { return Vec{} > v ? Vec{} : v; }  // this way around NaN stays

// bfloat16 (as uint16_t) or float, LANES at a time; rounded to nearest, ties to even. The processor's NaN stays one.
inline Vec load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
inline Vec load(const uint16_t* p) {
    return reinterpret_cast<Vec>(__builtin_convertvector(*reinterpret_cast<const Half*>(p), Word) << 16);
}
inline void store(float* p, Vec v) { *reinterpret_cast<Loose*>(p) = v; }
inline void store(uint16_t* p, Vec v) {
    const Word word = reinterpret_cast<Word>(v);
    *reinterpret_cast<Half*>(p) = __builtin_convertvector((word + 0x7fffu + ((word >> 16) & 1u)) >> 16, Half);
}

// A block of filters of one image: vectors that follow each other at a distance. The last block may be narrower.
template <class T>
struct Block {
    T* start;
    int64_t step;
    int lanes;
    Vec operator[](int64_t pixel) const {
        if (lanes == LANES) return load(start + pixel * step);
        std::remove_const_t<T> some[LANES] = {};
        std::memcpy(some, start + pixel * step, lanes * sizeof(T));
        return load(some);
    }
    void set(int64_t pixel, Vec v) const {
        if (lanes == LANES) return store(start + pixel * step, v);
        T some[LANES];
        store(some, v);
        std::memcpy(start + pixel * step, some, lanes * sizeof(T));
    }
};

inline int blocks_of(int64_t filters) { return static_cast<int>((filters + LANES - 1) / LANES); }

template <class T>
Block<T> block_of(T* image, int64_t filters, int block) {
    const int64_t left = filters - static_cast<int64_t>(block) * LANES;
    return {image + block * LANES, filters, static_cast<int>(left < LANES ? left : LANES)};
}

struct Affine {
    Vec gamma, beta;
};

struct Moments {
    Vec mean, scale;  // scale is 1/deviation
};

template <class Map>
Moments moments(const Map& x, int64_t pixels, float eps) {
    const int64_t even = pixels / WAYS * WAYS;
    Vec total[WAYS] = {}, squares[WAYS] = {};
    for (int64_t i = 0; i < even; i += WAYS)
#pragma GCC unroll 4
        for (int way = 0; way < WAYS; ++way) total[way] += x[i + way];
    for (int64_t i = even; i < pixels; ++i) total[0] += x[i];
    const Vec mean = ((total[0] + total[1]) + (total[2] + total[3])) / all(static_cast<float>(pixels));
    for (int64_t i = 0; i < even; i += WAYS)
#pragma GCC unroll 4
        for (int way = 0; way < WAYS; ++way) {
            const Vec d = x[i + way] - mean;
            squares[way] += d * d;
        }
    for (int64_t i = even; i < pixels; ++i) squares[0] += (x[i] - mean) * (x[i] - mean);
    Vec scale = ((squares[0] + squares[1]) + (squares[2] + squares[3])) / all(static_cast<float>(pixels)) + eps;
    for (int lane = 0; lane < LANES; ++lane) scale[lane] = 1.0f / std::sqrt(scale[lane]);
    return {mean, scale};
}

// ReLU of the normed map, pooled.
template <class Map, class Out>
void pool(const Map& x, int h, int w, const Moments& m, const Affine& affine, const Block<Out>& out) {
    const Vec a = affine.gamma * m.scale, b = affine.beta - m.mean * a, quarter = all(0.25f);
    for (int i = 0; i < h / 2; ++i)
        for (int j = 0; j < w / 2; ++j) {
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
            const Vec top = relu(x[at] * a + b) + relu(x[at + 1] * a + b);
            const Vec bottom = relu(x[at + w] * a + b) + relu(x[at + w + 1] * a + b);
            out.set(static_cast<int64_t>(i) * (w / 2) + j, (top + bottom) * quarter);
        }
}

// Gradients by the norm's input (into d_x, which may be x itself), scale and shift. Pixels that an odd side leaves out
// of the pooling pass nothing down.
template <class Map, class Target, class Out>
Affine backward(const Map& x, int h, int w, const Moments& m, const Affine& affine, const Block<const Out>& gradient,
                const Target& d_x) {
    const Vec quarter = all(0.25f);
    Vec first[WAYS] = {}, second[WAYS] = {};
    for (int i = 0; i < h / 2; ++i)
        for (int j = 0; j < w / 2; ++j) {
            const Vec spread = gradient[static_cast<int64_t>(i) * (w / 2) + j] * quarter;
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
#pragma GCC unroll 4
            for (int k = 0; k < WAYS; ++k) {
                const Vec normed = (x[at + k / 2 * w + k % 2] - m.mean) * m.scale;
                const Vec d = where_positive(normed * affine.gamma + affine.beta, spread);
                first[k] += d;
                second[k] += d * normed;
            }
        }
    const Vec d_beta = (first[0] + first[1]) + (first[2] + first[3]);
    const Vec d_gamma = (second[0] + second[1]) + (second[2] + second[3]);
    const Vec area = all(static_cast<float>(h) * static_cast<float>(w)), factor = affine.gamma * m.scale;
    const Vec a = d_beta / area, b = d_gamma / area;
    const auto visit = [&](int64_t at, Vec spread) {
        const Vec normed = (x[at] - m.mean) * m.scale;
        const Vec d = where_positive(normed * affine.gamma + affine.beta, spread);
        d_x.set(at, (d - a - normed * b) * factor);
    };
    for (int i = 0; i < h / 2; ++i) {
        for (int j = 0; j < w / 2; ++j) {
            const Vec spread = gradient[static_cast<int64_t>(i) * (w / 2) + j] * quarter;
            const int64_t at = 2 * static_cast<int64_t>(i) * w + 2 * j;
#pragma GCC unroll 4
            for (int k = 0; k < WAYS; ++k) visit(at + k / 2 * w + k % 2, spread);
        }
        if (w % 2)
            for (int k = 0; k < 2; ++k) visit((2 * static_cast<int64_t>(i) + k) * w + w - 1, Vec{});
    }
    if (h % 2)
        for (int j = 0; j < w; ++j) visit(static_cast<int64_t>(h - 1) * w + j, Vec{});
    return {d_gamma, d_beta};
}

template <class Out>
void norm_forward(const uint16_t* x, const float* gamma, const float* beta, Out* out, float* mean, float* scale,
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

template <class Out>
void norm_backward(const uint16_t* x, const float* gamma, const float* beta, const float* mean, const float* scale,
                   const Out* gradient, uint16_t* d_x, float* d_gamma, float* d_beta, int64_t n, int64_t filters,
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

    // What the padded image gets from every pixel of the map: tap k of channel c in lane k of (pixels, channels, LANES).
    void spread_gradient(const float* map, const float* weight, int lanes, float* spread) const {
        for (int c = 0; c < channels; ++c) {
            Vec taps[LANES] = {};  // one filter each
            for (int k = 0; k < 9; ++k)
                for (int lane = 0; lane < lanes; ++lane) taps[lane][k] = weight[(c * 9 + k) * LANES + lane];
            for (int64_t i = 0; i < pixels(); ++i) {
                Vec even{}, odd{};
#pragma GCC unroll 8
                for (int lane = 0; lane < LANES; lane += 2) {
                    even += taps[lane] * map[i * LANES + lane];
                    odd += taps[lane + 1] * map[i * LANES + lane + 1];
                }
                float* to = spread + (i * channels + c) * LANES;
                store(to, load(to) + even + odd);
            }
        }
    }

    void image_gradient(const float* spread, float* padded, float* d_image) const {
        std::memset(padded, 0, this->padded() * sizeof(float));
        for (int i = 0; i < height; ++i)
            for (int j = 0; j < width; ++j)
                for (int c = 0; c < channels; ++c) {
                    const float* from = spread + ((static_cast<int64_t>(i) * width + j) * channels + c) * LANES;
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
        Scratch spread(d_x ? stem.pixels() * channels * LANES : 0), d_image(d_x ? stem.padded() : 0);
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

// ``half``: the tensors marked void are bfloat16, else float.
extern "C" {

void bacon_norm_forward(const uint16_t* x, const float* gamma, const float* beta, void* out, float* mean, float* scale,
                        int64_t n, int64_t filters, int64_t h, int64_t w, float eps, int64_t half) {
    if (half)
        norm_forward(x, gamma, beta, static_cast<uint16_t*>(out), mean, scale, n, filters, h, w, eps);
    else
        norm_forward(x, gamma, beta, static_cast<float*>(out), mean, scale, n, filters, h, w, eps);
}

void bacon_norm_backward(const uint16_t* x, const float* gamma, const float* beta, const float* mean,
                         const float* scale, const void* gradient, uint16_t* d_x, float* d_gamma, float* d_beta,
                         int64_t n, int64_t filters, int64_t h, int64_t w, int64_t half) {
    if (half)
        norm_backward(x, gamma, beta, mean, scale, static_cast<const uint16_t*>(gradient), d_x, d_gamma, d_beta, n,
                      filters, h, w);
    else
        norm_backward(x, gamma, beta, mean, scale, static_cast<const float*>(gradient), d_x, d_gamma, d_beta, n,
                      filters, h, w);
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
