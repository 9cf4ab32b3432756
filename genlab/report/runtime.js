// Runs the programs of genlab/export/program.py: values are {shape, data: Float32Array}, in rows, one picture at a time.
const size = (shape) => shape.reduce((a, b) => a * b, 1);
// What one step along each dimension means in `data`; 0 where `shape`, aligned at the right to `rank` dimensions, repeats.
function strides(shape, rank = shape.length) {
  const found = new Array(rank).fill(0);
  for (let i = shape.length - 1, step = 1; i >= 0; step *= shape[i--]) found[rank - shape.length + i] = shape[i] === 1 ? 0 : step;
  return found;
}
function floats(base64) {
  const text = atob(base64), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const halves = new Uint16Array(bytes.buffer), found = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const h = halves[i], exponent = (h >> 10) & 31, part = h & 1023;
    const value = exponent ? 2 ** (exponent - 15) * (1 + part / 1024) : part * 2 ** -24;
    found[i] = h & 0x8000 ? -value : value;
  }
  return found;
}
// C (M, N) += A B, B (K, N) and C in rows, A (M, K) with steps am and ak; all from their offsets on.
function gemm(C, c0, A, a0, am, ak, B, b0, M, K, N) {
  for (let m = 0; m < M; m++) {
    const c = c0 + m * N;
    let k = 0;
    for (; k + 4 <= K; k += 4) {
      const a = a0 + m * am + k * ak, p = A[a], q = A[a + ak], r = A[a + 2 * ak], s = A[a + 3 * ak];
      const b = b0 + k * N, bq = b + N, br = bq + N, bs = br + N;
      for (let n = 0; n < N; n++) C[c + n] += p * B[b + n] + q * B[bq + n] + r * B[br + n] + s * B[bs + n];
    }
    for (; k < K; k++) {
      const p = A[a0 + m * am + k * ak], b = b0 + k * N;
      for (let n = 0; n < N; n++) C[c + n] += p * B[b + n];
    }
  }
}
// For each place (y, x) of the smaller side and each (i, j) of the kernel, call(row of the columns' matrix, large, small).
function patches(channels, H, W, h, w, kh, kw, at, call) {
  const [sy, sx] = at.stride, [py, px] = at.padding, [dy, dx] = at.dilation;
  for (let c = 0, row = 0; c < channels; c++)
    for (let i = 0; i < kh; i++)
      for (let j = 0; j < kw; j++, row++)
        for (let y = 0; y < h; y++) {
          const Y = y * sy - py + i * dy;
          if (Y < 0 || Y >= H) continue;
          for (let x = 0; x < w; x++) {
            const X = x * sx - px + j * dx;
            if (X >= 0 && X < W) call((row * h + y) * w + x, (c * H + Y) * W + X);
          }
        }
}
function conv([x, weight], out, at) {
  const [O, I, kh, kw] = weight.shape, [n, C, H, W] = x.shape, [h, w] = out.shape.slice(2), K = I * kh * kw, o = O / at.groups;
  for (let g = 0; g < at.groups; g++) {
    const columns = new Float32Array(K * h * w), from = g * I * H * W;
    patches(I, H, W, h, w, kh, kw, at, (column, pixel) => { columns[column] = x.data[from + pixel]; });
    gemm(out.data, g * o * h * w, weight.data, g * o * K, K, 1, columns, 0, o, K, h * w);
  }
}
function deconv([x, weight], out, at) {
  const [I, O, kh, kw] = weight.shape, [n, C, h, w] = x.shape, [H, W] = out.shape.slice(2), K = O * kh * kw, i = I / at.groups;
  for (let g = 0; g < at.groups; g++) {
    const columns = new Float32Array(K * h * w), to = g * O * H * W;
    gemm(columns, 0, weight.data, g * i * K, 1, K, x.data, g * i * h * w, K, i, h * w);
    patches(O, H, W, h, w, kh, kw, at, (column, pixel) => { out.data[to + pixel] += columns[column]; });
  }
}
function matmul([a, b], out) {
  const [M, K] = a.shape.slice(-2), N = b.shape[b.shape.length - 1], many = size(a.shape.slice(0, -2));
  for (let i = 0; i < many; i++) gemm(out.data, i * M * N, a.data, i * M * K, K, 1, b.data, i * K * N, M, K, N);
}
// data[place] = x's value from `start` on, by steps along each dimension of `out`.
function gather(x, out, steps, start = 0) {
  const shape = out.shape, rank = shape.length, index = new Array(rank).fill(0);
  for (let i = 0, from = start; i < out.data.length; i++) {
    out.data[i] = x.data[from];
    for (let d = rank - 1; d >= 0; d--) {
      from += steps[d];
      if (++index[d] < shape[d]) break;
      from -= steps[d] * shape[d];
      index[d] = 0;
    }
  }
}
const dense = (shape) => shape.map((_, i) => size(shape.slice(i + 1)));
function binary(f) {
  return ([a, b], out) => {
    const rank = out.shape.length, n = out.data.length;
    const [p, q] = [a, b].map((v) => {
      if (v.data.length === n) return v.data;
      const repeated = { shape: out.shape, data: new Float32Array(n) };
      gather(v, repeated, strides(v.shape, rank));
      return repeated.data;
    });
    for (let i = 0; i < n; i++) out.data[i] = f(p[i], q[i]);
  };
}
const unary = (f) => ([x], out, at) => { for (let i = 0; i < out.data.length; i++) out.data[i] = f(x.data[i], at); };
function reduce([x], out, at) {
  const steps = strides(out.shape), to = dense(out.shape), shape = x.shape, index = shape.map(() => 0), max = at.kind === "max";
  if (max) out.data.fill(-Infinity);
  for (let i = 0; i < x.data.length; i++) {
    let place = 0;
    for (let d = 0; d < shape.length; d++) place += at.dims.includes(d) ? 0 : index[d] * to[d];
    if (max) out.data[place] = Math.max(out.data[place], x.data[i]);
    else out.data[place] += x.data[i];
    for (let d = shape.length - 1; d >= 0 && ++index[d] === shape[d]; d--) index[d] = 0;
  }
  if (at.kind === "mean") for (let i = 0; i < out.data.length; i++) out.data[i] *= out.data.length / x.data.length;
}
function pool(max) {
  return ([x], out, at) => {
    const [n, C, H, W] = x.shape, [h, w] = out.shape.slice(2), [kh, kw] = at.kernel, [sy, sx] = at.stride;
    for (let c = 0; c < C; c++)
      for (let y = 0; y < h; y++)
        for (let z = 0; z < w; z++) {
          let found = max ? -Infinity : 0;
          for (let i = 0; i < kh; i++)
            for (let j = 0; j < kw; j++) {
              const v = x.data[(c * H + y * sy + i) * W + z * sx + j];
              found = max ? Math.max(found, v) : found + v / (kh * kw);
            }
          out.data[(c * h + y) * w + z] = found;
        }
  };
}
function resize(smooth) {
  return ([x], out) => {
    const [n, C, H, W] = x.shape, [h, w] = out.shape.slice(2);
    const place = (i, from, to) => {
      if (!smooth) return [Math.floor((i * from) / to), 0, 0];
      const at = Math.max(0, ((i + 0.5) * from) / to - 0.5), low = Math.floor(at);
      return [low, Math.min(low + 1, from - 1), at - low];
    };
    for (let c = 0; c < n * C; c++)
      for (let y = 0; y < h; y++) {
        const [y0, y1, ty] = place(y, H, h), a = (c * H + y0) * W, b = (c * H + y1) * W;
        for (let z = 0; z < w; z++) {
          const [x0, x1, tx] = place(z, W, w), d = x.data;
          const top = d[a + x0] + (tx && tx * (d[a + x1] - d[a + x0]));
          out.data[(c * h + y) * w + z] = top + (ty && ty * (d[b + x0] + (tx && tx * (d[b + x1] - d[b + x0])) - top));
        }
      }
  };
}
function halfEven(x) {
  const low = Math.floor(x), part = x - low;
  return part < 0.5 || (part === 0.5 && low % 2 === 0) ? low : low + 1;
}
const OPS = {
  conv, deconv, matmul, reduce, maxpool: pool(true), avgpool: pool(false), nearest: resize(false), bilinear: resize(true),
  add: binary((a, b) => a + b), sub: binary((a, b) => a - b), mul: binary((a, b) => a * b), div: binary((a, b) => a / b),
  pow: binary(Math.pow), minimum: binary(Math.min), maximum: binary(Math.max), lt: binary((a, b) => +(a < b)),
  gt: binary((a, b) => +(a > b)), le: binary((a, b) => +(a <= b)), ge: binary((a, b) => +(a >= b)), eq: binary((a, b) => +(a === b)),
  relu: unary((v) => (v > 0 ? v : 0)), leaky: unary((v, at) => (v > 0 ? v : at.slope * v)), tanh: unary(Math.tanh),
  sigmoid: unary((v) => 1 / (1 + Math.exp(-v))), exp: unary(Math.exp), log: unary(Math.log), log1p: unary(Math.log1p),
  neg: unary((v) => -v), abs: unary(Math.abs), sqrt: unary(Math.sqrt), rsqrt: unary((v) => 1 / Math.sqrt(v)),
  floor: unary(Math.floor), round: unary(halfEven),
  clamp: unary((v, at) => Math.min(Math.max(v, at.low ?? -Infinity), at.high ?? Infinity)),
  permute: ([x], out, at) => gather(x, out, at.dims.map((d) => dense(x.shape)[d])),
  expand: ([x], out) => gather(x, out, strides(x.shape, out.shape.length)),
  slice: ([x], out, at) => {
    const steps = dense(x.shape), start = at.start * steps[at.dim];
    steps[at.dim] *= at.step;
    gather(x, out, steps, start);
  },
  cat: (parts, out, at) => {
    const inner = size(out.shape.slice(at.dim + 1)), row = out.shape[at.dim] * inner;
    let start = 0;
    for (const part of parts) {
      const length = part.shape[at.dim] * inner;
      for (let i = 0; i * row < out.data.length; i++) out.data.set(part.data.subarray(i * length, (i + 1) * length), i * row + start);
      start += length;
    }
  },
  rows: ([weight, index], out) => {
    const D = weight.shape[1];
    index.data.forEach((row, i) => out.data.set(weight.data.subarray(row * D, (row + 1) * D), i * D));
  },
  where: ([condition, a, b], out) => {
    const rank = out.shape.length;
    const [c, p, q] = [condition, a, b].map((v) => {
      const repeated = { shape: out.shape, data: new Float32Array(out.data.length) };
      gather(v, repeated, strides(v.shape, rank));
      return repeated.data;
    });
    for (let i = 0; i < c.length; i++) out.data[i] = c[i] ? p[i] : q[i];
  },
};
// A function of the program's inputs (plain or typed arrays of numbers), whose result is a Float32Array.
function load(program) {
  const weights = floats(program.weights), known = {};
  let start = 0;
  for (const [number, scale] of program.constants) {
    const shape = program.shapes[number], data = weights.slice(start, (start += size(shape)));
    if (scale !== 1) for (let i = 0; i < data.length; i++) data[i] *= scale;
    known[number] = { shape, data };
  }
  return (...inputs) => {
    const values = { ...known };
    program.inputs.forEach((number, i) => { values[number] = { shape: program.shapes[number], data: Float32Array.from(inputs[i]) }; });
    for (const [name, from, to, at] of program.ops) {
      const shape = program.shapes[to], inputs = from.map((number) => values[number]);
      if (name === "view") { values[to] = { shape, data: inputs[0].data }; continue; }
      values[to] = { shape, data: new Float32Array(size(shape)) };
      OPS[name](inputs, values[to], at);
    }
    return values[program.output].data;
  };
}
if (typeof module !== "undefined") module.exports = { load, floats };
