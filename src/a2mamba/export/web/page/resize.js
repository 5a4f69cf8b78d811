// Resizing as Pillow does it, with which the networks are trained and measured: separable, antialiased, rounded to
// eight bits after each direction. Browsers resize in their own ways, which change what a network says.

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight(x) {
      const a = -0.5;
      const t = Math.abs(x);
      if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
      return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
};
const ONE = 1 << 22; // weights are whole numbers of this fraction

// Per position of the result: the first position that it is made of, and the weights from there on.
function windows(from, to, name) {
  const { support, weight } = FILTERS[name];
  const scale = from / to;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: to }, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(from, Math.trunc(center + reach + 0.5));
    const weights = Array.from({ length: end - first }, (_, i) => weight((i + first - center + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map((w) => Math.trunc((w / sum) * ONE + (w < 0 ? -0.5 : 0.5))) };
  });
}

const clip = (sum) => Math.min(255, Math.max(0, Math.floor((sum + ONE / 2) / ONE)));

// Along one direction: `lines` lines of `windows.length` results; steps say how far neighbors are apart.
function along(source, target, lines, sourceSteps, targetSteps, places, channels) {
  for (let line = 0; line < lines; line++) {
    places.forEach(({ first, weights }, place) => {
      const from = line * sourceSteps.line + first * sourceSteps.place;
      const to = line * targetSteps.line + place * targetSteps.place;
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let i = 0; i < weights.length; i++) sum += weights[i] * source[from + i * sourceSteps.place + c];
        target[to + c] = clip(sum);
      }
    });
  }
}

// {data: Uint8, width, height}, interleaved channels -> the same of another size.
export function resize(image, width, height, filter, channels) {
  let { data } = image;
  if (width !== image.width) {
    const target = new Uint8ClampedArray(width * image.height * channels);
    const steps = (row) => ({ line: row * channels, place: channels });
    along(data, target, image.height, steps(image.width), steps(width), windows(image.width, width, filter), channels);
    data = target;
  }
  if (height !== image.height) {
    const target = new Uint8ClampedArray(width * height * channels);
    const steps = { line: channels, place: width * channels };
    along(data, target, width, steps, steps, windows(image.height, height, filter), channels);
    data = target;
  }
  return { data, width, height };
}

// RGBA -> RGB, or gray as Pillow's "L".
export function withoutAlpha(image, channels) {
  const { data, width, height } = image;
  const out = new Uint8ClampedArray(width * height * channels);
  for (let i = 0, o = 0; i < data.length; i += 4, o += channels) {
    if (channels === 1) {
      out[o] = (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16;
    } else {
      out[o] = data[i];
      out[o + 1] = data[i + 1];
      out[o + 2] = data[i + 2];
    }
  }
  return { data: out, width, height };
}

// Python's round: halves to even, as torchvision crops.
const roundEven = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

// An image without alpha -> what the network is given, and which part of it the image is: {left, top, width, height}
// in the network's pixels. Outside of it stands the mean color.
export function fitted(image, page) {
  const channels = page.mean.length;
  const [height, width] = page.size;
  const size = resizedTo(image, page);
  const resized = resize(image, size.width, size.height, page.interpolation, channels);
  const left = page.resize === null ? 0 : -roundEven((size.width - width) / 2);
  const top = page.resize === null ? 0 : -roundEven((size.height - height) / 2);
  const filled = page.mean.map((value) => Math.round(255 * value));
  const data = new Uint8ClampedArray(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const [fromX, fromY] = [x - left, y - top];
      const here = fromX >= 0 && fromX < size.width && fromY >= 0 && fromY < size.height;
      for (let c = 0; c < channels; c++) {
        data[(y * width + x) * channels + c] = here
          ? resized.data[(fromY * size.width + fromX) * channels + c]
          : filled[c];
      }
    }
  }
  return { data, width, height, place: { left, top, width: size.width, height: size.height } };
}

function resizedTo(image, page) {
  if (Array.isArray(page.resize)) return { width: page.resize[1], height: page.resize[0] };
  if (page.resize !== null) {
    const [short, long] = [Math.min(image.width, image.height), Math.max(image.width, image.height)];
    const longer = Math.trunc((page.resize * long) / short);
    return image.width <= image.height
      ? { width: page.resize, height: longer }
      : { width: longer, height: page.resize };
  }
  const scale = Math.min(page.size[1] / image.width, page.size[0] / image.height);
  return {
    width: Math.max(1, Math.round(image.width * scale)),
    height: Math.max(1, Math.round(image.height * scale)),
  };
}
