// The structures of the page: unpacked arrays, formulas, atoms to be drawn with their bonds.

const BOND = 1.3; // sums of covalent radii
const FACE = 0.02; // fractional; atoms so near to a face of the cell are drawn on the opposite one as well

function unpack(data) {
  const bytes = (text) => {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out.buffer;
  };
  const count = new Uint32Array(bytes(data.count));
  const species = new Uint8Array(bytes(data.species));
  const positions = new Float32Array(bytes(data.positions));
  const pbc = new Uint8Array(bytes(data.pbc));
  const cells = new Float32Array(bytes(data.cells));
  const energy = new Float64Array(bytes(data.energy));
  const group = new Uint16Array(bytes(data.group));
  const structures = [];
  for (let index = 0, at = 0, cell = 0; index < count.length; index++) {
    const n = count[index];
    const one = {
      index,
      n,
      kinds: species.subarray(at, at + n),
      positions: positions.subarray(3 * at, 3 * (at + n)),
      pbc: [1, 2, 4].map((bit) => (pbc[index] & bit) > 0),
      cell: null,
      energy: energy[index],
      perAtom: energy[index] / n,
      group: group[index],
      info: {},
    };
    one.periodic = one.pbc.some(Boolean);
    if (one.periodic) one.cell = [0, 3, 6].map((row) => Array.from(cells.subarray(9 * cell + row, 9 * cell + row + 3)));
    if (one.periodic) cell++;
    for (const name of Object.keys(data.info)) if (data.info[name][index] !== null) one.info[name] = data.info[name][index];
    one.formula = formulaOf(one, data.elements);
    one.name = one.formula.map(([symbol, number]) => symbol + (number > 1 ? number : "")).join("");
    structures.push(one);
    at += n;
  }
  return structures;
}

// Symbols and numbers in Hill's order: with carbon, first C, then H; the rest by the alphabet.
function formulaOf(structure, elements) {
  const numbers = new Map();
  for (const kind of structure.kinds) {
    const symbol = elements[kind].symbol;
    numbers.set(symbol, (numbers.get(symbol) || 0) + 1);
  }
  const first = numbers.has("C") ? ["C", "H"] : [];
  const rank = (symbol) => (first.includes(symbol) ? String(first.indexOf(symbol)) : symbol);
  return [...numbers].sort(([a], [b]) => (rank(a) < rank(b) ? -1 : 1));
}

// What is drawn: atoms wrapped into the cell, those on its faces repeated, bonds, and the corners of the cell.
function drawing(structure, elements, repeats = 1) {
  const points = [];
  const kinds = [];
  const inverse = structure.cell && inverted(structure.cell);
  for (let i = 0; i < structure.n; i++) {
    const point = Array.from(structure.positions.subarray(3 * i, 3 * i + 3));
    const places = inverse ? images(times(point, inverse), structure.pbc, repeats).map((f) => times(f, structure.cell)) : [point];
    for (const place of places) {
      points.push(place);
      kinds.push(structure.kinds[i]);
    }
  }
  const ends = structure.cell && structure.cell.map((vector, axis) => vector.map((x) => x * (structure.pbc[axis] ? repeats : 1)));
  return { points, kinds, bonds: bondsOf(points, kinds, elements), box: ends ? boxLines(ends) : [] };
}

function images(fraction, pbc, repeats) {
  let found = [[]];
  fraction.forEach((value, axis) => {
    let places = [value];
    if (pbc[axis]) {
      const f = value - Math.floor(value);
      places = Array.from({ length: repeats }, (_, k) => f + k);
      if (f < FACE) places.push(f + repeats);
      if (f > 1 - FACE) places.unshift(f - 1);
    }
    found = found.flatMap((start) => places.map((place) => [...start, place]));
  });
  return found;
}

function boxLines([a, b, c]) {
  const corner = (i, j, k) => a.map((_, x) => i * a[x] + j * b[x] + k * c[x]);
  const lines = [];
  for (const [p, q] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
    lines.push([corner(0, p, q), corner(1, p, q)], [corner(p, 0, q), corner(p, 1, q)], [corner(p, q, 0), corner(p, q, 1)]);
  }
  return lines;
}

// Pairs nearer than BOND sums of covalent radii, found through a grid of cubes.
function bondsOf(points, kinds, elements) {
  const radius = kinds.map((kind) => elements[kind].radius);
  const side = 2 * BOND * Math.max(...elements.map((element) => element.radius), 0.1);
  const cubes = new Map();
  const bonds = [];
  points.forEach((point, i) => {
    const [x, y, z] = point.map((value) => Math.floor(value / side));
    for (let dx = -1; dx <= 1; dx++)
      for (let dy = -1; dy <= 1; dy++)
        for (let dz = -1; dz <= 1; dz++)
          for (const j of cubes.get(`${x + dx},${y + dy},${z + dz}`) || []) {
            const distance = Math.hypot(...point.map((value, axis) => value - points[j][axis]));
            if (distance > 0.1 && distance < BOND * (radius[i] + radius[j])) bonds.push([j, i]);
          }
    const key = `${x},${y},${z}`;
    if (cubes.has(key)) cubes.get(key).push(i);
    else cubes.set(key, [i]);
  });
  return bonds;
}

// Row vectors: a point is a row, a matrix is a list of rows.
function times(row, matrix) {
  return [0, 1, 2].map((x) => row[0] * matrix[0][x] + row[1] * matrix[1][x] + row[2] * matrix[2][x]);
}

function cross(a, b) {
  return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
}

function dot(a, b) {
  return a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
}

function inverted([a, b, c]) {
  const columns = [cross(b, c), cross(c, a), cross(a, b)];
  const volume = dot(a, columns[0]);
  return [0, 1, 2].map((row) => columns.map((column) => column[row] / volume));
}
