// A structure as the text of a file: extended XYZ, CIF, POSCAR.

const VACUUM = 10; // Å on every side of what is not periodic, in formats that need a cell
const UPRIGHT = [[1, 0, 0], [0, 1, 0], [0, 0, 1]];

const FORMATS = {
  xyz: { label: "XYZ", end: (structure) => (structure.periodic ? "extxyz" : "xyz"), write: xyzText },
  cif: { label: "CIF", end: () => "cif", write: cifText, needsCell: true },
  poscar: { label: "POSCAR", end: () => "vasp", write: poscarText },
};

function xyzText(structure, report) {
  const quoted = (value) => {
    if (typeof value === "boolean") return value ? "T" : "F";
    if (typeof value === "number") return String(value);
    return `"${value.replace(/\s+/g, " ").replace(/\\/g, "\\\\").replace(/"/g, '\\"')}"`;
  };
  const words = ["Properties=species:S:1:pos:R:3"];
  if (structure.cell) words.unshift(`Lattice="${structure.cell.flat().map((x) => x.toFixed(7)).join(" ")}"`);
  if (Number.isFinite(structure.energy)) words.push(`energy=${structure.energy}`);
  if (report.groups.length > 1) words.push(`policy=${quoted(report.groups[structure.group])}`);
  for (const [name, value] of Object.entries(structure.info)) {
    if (/^[A-Za-z]\w*$/.test(name)) words.push(`${name}=${quoted(value)}`);
  }
  words.push(`pbc="${structure.pbc.map((p) => (p ? "T" : "F")).join(" ")}"`);
  const rows = Array.from(structure.kinds, (kind, i) => {
    const place = structure.positions.subarray(3 * i, 3 * i + 3);
    return report.elements[kind].symbol.padEnd(2) + Array.from(place, (x) => x.toFixed(7).padStart(16)).join("");
  });
  return [structure.n, words.join(" "), ...rows].join("\n") + "\n";
}

function cifText(structure, report) {
  const { cell, fractions } = boxed(structure);
  const length = cell.map((vector) => Math.hypot(...vector));
  const angle = (i, j) => ((Math.acos(dot(cell[i], cell[j]) / (length[i] * length[j])) * 180) / Math.PI).toFixed(6);
  const lines = [
    `data_${structure.name}`,
    ...["a", "b", "c"].map((axis, i) => `_cell_length_${axis} ${length[i].toFixed(7)}`),
    `_cell_angle_alpha ${angle(1, 2)}`,
    `_cell_angle_beta ${angle(0, 2)}`,
    `_cell_angle_gamma ${angle(0, 1)}`,
    "_symmetry_space_group_name_H-M 'P 1'",
    "_symmetry_Int_Tables_number 1",
    "loop_",
    "_symmetry_equiv_pos_as_xyz",
    "'x, y, z'",
    "loop_",
    ...["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"].map((name) => `_atom_site_${name}`),
  ];
  const seen = {};
  fractions.forEach((fraction, i) => {
    const symbol = report.elements[structure.kinds[i]].symbol;
    seen[symbol] = (seen[symbol] || 0) + 1;
    lines.push(`${symbol}${seen[symbol]} ${symbol} ${fraction.map((f) => f.toFixed(9)).join(" ")} 1.0`);
  });
  return lines.join("\n") + "\n";
}

function poscarText(structure, report) {
  const { cell, fractions } = boxed(structure);
  const kinds = [...new Set(structure.kinds)];
  const members = kinds.map((kind) => fractions.filter((_, i) => structure.kinds[i] === kind));
  const row = (values, digits) => values.map((x) => x.toFixed(digits).padStart(digits + 6)).join(" ");
  const energy = Number.isFinite(structure.energy) ? ` energy=${structure.energy.toFixed(6)} eV` : "";
  return [
    structure.name + energy,
    "1.0",
    ...cell.map((vector) => row(vector, 9)),
    kinds.map((kind) => report.elements[kind].symbol).join(" "),
    members.map((rows) => rows.length).join(" "),
    "Direct",
    ...members.flat().map((fraction) => row(fraction, 10)),
  ].join("\n") + "\n";
}

// A right-handed cell with vacuum where the structure is not periodic, and the fractional coordinates in it.
function boxed(structure) {
  const points = Array.from({ length: structure.n }, (_, i) => Array.from(structure.positions.subarray(3 * i, 3 * i + 3)));
  let cell = (structure.cell || UPRIGHT).map((vector) => [...vector]);
  structure.pbc.forEach((periodic, axis) => {
    if (periodic) return;
    const across = cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3]);
    const size = Math.hypot(...across);
    const along = dot(cell[axis], across) / size;
    const heights = points.map((point) => dot(point, across) / size);
    const low = Math.min(...heights);
    const wide = Math.max(...heights) - low + 2 * VACUUM;
    const unit = cell[axis].map((x) => x / along);
    points.forEach((point) => unit.forEach((x, i) => (point[i] += x * (VACUUM - low))));
    cell[axis] = unit.map((x) => x * wide);
  });
  if (dot(cell[0], cross(cell[1], cell[2])) < 0) cell = cell.map((vector) => vector.map((x) => -x));
  const inverse = inverted(cell);
  return { cell, fractions: points.map((point) => times(point, inverse)) };
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
