// Flat pictures: balls and sticks on a canvas, drawn from back to front.

const TILT = rotation([1, 0, 0], 0.35, rotation([0, 1, 0], 0.45, [[1, 0, 0], [0, 1, 0], [0, 0, 1]]));
const BALL = 0.42; // of the covalent radius, but not less than SMALLEST
const SMALLEST = 0.2; // Å
const sprites = new Map();

function ball(element) {
  return Math.max(SMALLEST, BALL * element.radius);
}

// `matrix` (rows) followed by a turn of `angle` around an axis of the screen.
function rotation([x, y, z], angle, matrix) {
  const c = Math.cos(angle);
  const s = Math.sin(angle);
  const t = 1 - c;
  const turn = [
    [t * x * x + c, t * x * y + s * z, t * x * z - s * y],
    [t * x * y - s * z, t * y * y + c, t * y * z + s * x],
    [t * x * z + s * y, t * y * z - s * x, t * z * z + c],
  ];
  return matrix.map((row) => times(row, turn));
}

function sprite(colour) {
  if (sprites.has(colour)) return sprites.get(colour);
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 96;
  const pen = canvas.getContext("2d");
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const mixed = (share, to) => `rgb(${[r, g, b].map((v) => Math.round(v + (to - v) * share)).join(",")})`;
  const shade = pen.createRadialGradient(36, 32, 3, 48, 48, 47);
  shade.addColorStop(0, mixed(0.75, 255));
  shade.addColorStop(0.35, colour);
  shade.addColorStop(1, mixed(0.5, 0));
  pen.fillStyle = shade;
  pen.beginPath();
  pen.arc(48, 48, 47, 0, 2 * Math.PI);
  pen.fill();
  sprites.set(colour, canvas);
  return canvas;
}

// Draws into a canvas of the size that the style sheet gives it; `zoom` 1 fits.
function picture(canvas, drawn, elements, matrix, zoom = 1) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [canvas.clientWidth || 150, canvas.clientHeight || 120];
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d", { willReadFrequently: true }); // not worth a texture on the graphics card
  pen.scale(ratio, ratio);
  const everything = [...drawn.points, ...drawn.box.flat()];
  const middle = [0, 1, 2].map((axis) => {
    const values = everything.map((point) => point[axis]);
    return (Math.min(...values) + Math.max(...values)) / 2;
  });
  const turned = (point) => times(point.map((x, axis) => x - middle[axis]), matrix);
  const points = drawn.points.map(turned);
  const box = drawn.box.map((line) => line.map(turned));
  const reach = Math.max(...drawn.kinds.map((kind) => ball(elements[kind])));
  const all = [...points, ...box.flat()];
  const farX = Math.max(...all.map(([x]) => Math.abs(x))) + reach;
  const farY = Math.max(...all.map(([, y]) => Math.abs(y))) + reach;
  const scale = zoom * Math.min(0.46 * width / farX, 0.46 * height / farY, 0.2 * height / reach);
  const at = ([x, y]) => [width / 2 + x * scale, height / 2 - y * scale];
  const stroke = (from, to, colour, wide) => {
    pen.strokeStyle = colour;
    pen.lineWidth = wide;
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
  };
  const lineColour = getComputedStyle(canvas).getPropertyValue("--cell") || "#888";
  const parts = points.map((point, i) => ({ depth: point[2], atom: i }));
  drawn.bonds.forEach((bond) => parts.push({ depth: (points[bond[0]][2] + points[bond[1]][2]) / 2 - 0.01, bond }));
  box.forEach((line) => parts.push({ depth: (line[0][2] + line[1][2]) / 2 - 0.02, line }));
  parts.sort((a, b) => a.depth - b.depth);
  for (const part of parts) {
    if (part.line) {
      stroke(at(part.line[0]), at(part.line[1]), lineColour, 1);
    } else if (part.bond) {
      const [from, to] = part.bond.map((i) => at(points[i]));
      const half = from.map((value, axis) => (value + to[axis]) / 2);
      const wide = Math.max(1.2, 0.22 * scale);
      stroke(from, to, "rgba(0,0,0,0.45)", wide + 1);
      stroke(from, half, elements[drawn.kinds[part.bond[0]]].colour, wide);
      stroke(half, to, elements[drawn.kinds[part.bond[1]]].colour, wide);
    } else {
      const element = elements[drawn.kinds[part.atom]];
      const [x, y] = at(points[part.atom]);
      const r = Math.max(2, ball(element) * scale);
      pen.drawImage(sprite(element.colour), x - r, y - r, 2 * r, 2 * r);
    }
  }
}
