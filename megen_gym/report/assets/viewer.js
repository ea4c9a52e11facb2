// The one structure that turns: 3Dmol.js where there is WebGL, a flat picture that turns where there is none.

const STEP = 12; // degrees of a turn by an arrow key
const TILTED = [0.1697, 0.2197, 0.0388, 0.9599]; // the quaternion of TILT

// Points moved away from their middle by a tenth.
function around(points) {
  const middle = [0, 1, 2].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return points.map((point) => point.map((x, axis) => middle[axis] + 1.1 * (x - middle[axis])));
}

class Viewer {
  constructor(box, elements) {
    this.box = box;
    this.elements = elements;
    this.spinning = false;
    this.solid = null;
    this.seen = false;
    try {
      // Twice the resolution smooths more than multisampling, and software renderers are quicker with it.
      this.solid = $3Dmol.createViewer(box, { backgroundAlpha: 0, disableFog: true, antialias: false, upscale: true });
    } catch {
      box.replaceChildren();
      this.makeFlat();
    }
    this.matrix = TILT;
    // The wheel scrolls the page until the viewer was clicked or focused.
    const keep = (event) => document.activeElement !== box && !event.ctrlKey && event.stopPropagation();
    box.addEventListener("wheel", keep, { capture: true });
    box.addEventListener("pointerdown", () => box.focus({ preventScroll: true }));
    box.addEventListener("keydown", (event) => this.key(event));
  }

  makeFlat() {
    this.canvas = document.createElement("canvas");
    this.box.append(this.canvas);
    let last = null;
    this.box.addEventListener("pointerdown", (event) => (last = [event.clientX, event.clientY]));
    window.addEventListener("pointerup", () => (last = null));
    this.box.addEventListener("pointermove", (event) => {
      if (!last) return;
      this.turn((event.clientX - last[0]) / 2, (event.clientY - last[1]) / 2);
      last = [event.clientX, event.clientY];
    });
    new ResizeObserver(() => this.render()).observe(this.box);
  }

  show(structure, repeats) {
    this.drawn = drawing(structure, this.elements, repeats);
    if (this.solid) {
      const { points, kinds, bonds } = this.drawn;
      const atoms = points.map(([x, y, z], i) => ({ elem: this.elements[kinds[i]].symbol, x, y, z, bonds: [], bondOrder: [] }));
      for (const [i, j] of bonds) {
        atoms[i].bonds.push(j);
        atoms[j].bonds.push(i);
        atoms[i].bondOrder.push(1);
        atoms[j].bondOrder.push(1);
      }
      this.solid.removeAllModels();
      this.solid.addModel().addAtoms(atoms);
      const thin = atoms.length > 400;
      for (const element of this.elements) {
        const { symbol, colour } = element;
        const stick = { radius: thin ? 0.08 : 0.12, color: colour };
        this.solid.setStyle({ elem: symbol, model: 0 }, { sphere: { radius: ball(element), color: colour }, stick });
      }
      // Atoms without a style stand a little outside the corners of the cell, so that all of it is in view.
      const corners = around(this.drawn.box.flat()).map(([x, y, z]) => ({ elem: "H", x, y, z, bonds: [], bondOrder: [] }));
      if (corners.length) {
        this.solid.addModel().addAtoms(corners);
        this.solid.setStyle({ model: 1 }, {});
      }
      this.lines();
      const turned = this.seen ? this.solid.getView().slice(4) : TILTED;
      this.solid.zoomTo();
      this.solid.setView([...this.solid.getView().slice(0, 4), ...turned]);
    }
    this.seen = true;
    this.zoomed = 1;
    this.render();
  }

  lines() {
    if (!this.solid || !this.drawn) return;
    this.solid.removeAllShapes();
    const color = getComputedStyle(this.box).getPropertyValue("--cell").trim() || "#888888";
    const place = ([x, y, z]) => ({ x, y, z });
    for (const [from, to] of this.drawn.box) {
      this.solid.addCylinder({ start: place(from), end: place(to), radius: 0.035, color, fromCap: 0, toCap: 0 });
    }
  }

  render() {
    if (this.solid) this.solid.render();
    else if (this.drawn) picture(this.canvas, this.drawn, this.elements, this.matrix, this.zoomed);
  }

  turn(x, y) {
    if (this.solid) {
      if (x) this.solid.rotate(x, "vy");
      if (y) this.solid.rotate(y, "vx");
    } else {
      this.matrix = rotation([0, 1, 0], (x * Math.PI) / 180, rotation([1, 0, 0], (y * Math.PI) / 180, this.matrix));
      this.render();
    }
  }

  zoom(factor) {
    if (this.solid) this.solid.zoom(factor);
    this.zoomed *= factor;
    if (!this.solid) this.render();
  }

  reset() {
    this.matrix = TILT;
    this.zoomed = 1;
    if (this.solid) {
      this.solid.zoomTo();
      this.solid.setView([...this.solid.getView().slice(0, 4), ...TILTED]);
    }
    this.render();
  }

  spin(on) {
    this.spinning = on;
    const step = () => {
      if (!this.spinning) return;
      this.turn(0.8, 0);
      requestAnimationFrame(step);
    };
    if (on) requestAnimationFrame(step);
  }

  key(event) {
    const turns = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (turns[event.key]) this.turn(...turns[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.2);
    else if (event.key === "-") this.zoom(1 / 1.2);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
  }
}
