// The gallery: cards with small pictures, page by page, and the panel of the selected structure.

const PAGE = 24;

class Gallery {
  constructor(root, report) {
    this.report = report;
    this.structures = report.structures;
    this.part = (name) => root.querySelector(`[data-part="${name}"]`);
    this.root = root;
    this.page = 0;
    this.selected = null;
    this.active = null;
    this.repeats = 1;
    // Pictures are drawn when their cards come near the window.
    this.watch = new IntersectionObserver((seen) => seen.forEach((one) => this.paint(one)), { rootMargin: "300px" });
    this.fillChoices();
    this.listen();
    this.arrange();
    this.select(this.shown[0]);
  }

  // The viewer comes when the page is there: a renderer needs some time for its shaders.
  open() {
    this.viewer = new Viewer(this.part("viewer"), this.report.elements);
    this.part("flat").hidden = Boolean(this.viewer.solid);
    this.show();
  }

  show() {
    this.viewer?.show(this.selected, this.selected.periodic ? this.repeats : 1);
  }

  fillChoices() {
    const { groups, info } = this.report;
    const option = (select, value, text) => select.add(new Option(text, value));
    const group = this.part("group");
    option(group, "", `all (${this.structures.length.toLocaleString("en")})`);
    groups.forEach((name, i) => {
      const count = this.structures.filter((one) => one.group === i).length;
      if (count) option(group, String(i), `${name} (${count.toLocaleString("en")})`);
    });
    group.closest("label").hidden = group.length < 3;
    this.part("valid").closest("label").hidden = !(info.valid || []).includes(false);
    const sort = this.part("sort");
    const some = (test) => this.structures.some(test);
    this.energetic = some((one) => Number.isFinite(one.energy));
    if (this.energetic) {
      option(sort, "energy", "energy, lowest first");
      option(sort, "-energy", "energy, highest first");
      if (some((one) => one.n !== this.structures[0].n)) option(sort, "perAtom", "energy per atom");
    }
    if (group.length > 2) option(sort, "group", this.energetic ? "group, then energy" : "group");
    if (some((one) => one.n !== this.structures[0].n)) option(sort, "n", "number of atoms");
    for (const [name, values] of Object.entries(info)) {
      const numbers = new Set(values.filter((value) => typeof value === "number"));
      if (numbers.size > 1) option(sort, `info:${name}`, name.replaceAll("_", " "));
    }
    if (!sort.length) option(sort, "index", "as given");
    sort.closest("label").hidden = sort.length < 2;
  }

  listen() {
    for (const name of ["group", "valid", "sort"]) {
      this.part(name).addEventListener("change", () => {
        this.page = 0;
        this.arrange();
      });
    }
    this.part("before").addEventListener("click", () => this.turnPage(-1));
    this.part("after").addEventListener("click", () => this.turnPage(1));
    const cards = this.part("cards");
    cards.addEventListener("keydown", (event) => this.key(event));
    cards.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (!card) return;
      this.focus(Number(card.dataset.place));
      this.select(this.shown[this.active], true);
    });
    this.part("spin").addEventListener("click", (event) => {
      const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", on);
      this.viewer?.spin(on);
    });
    this.part("reset").addEventListener("click", () => this.viewer?.reset());
    this.part("repeat").addEventListener("click", (event) => {
      this.repeats = this.repeats === 1 ? 2 : 1;
      event.currentTarget.setAttribute("aria-pressed", this.repeats > 1);
      this.show();
    });
    for (const kind of Object.keys(FORMATS)) this.part(kind).addEventListener("click", () => this.save(kind));
    this.part("everything").addEventListener("click", () => {
      const text = this.shown.map((one) => xyzText(one, this.report)).join("");
      download("structures.extxyz", text);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.draw();
      this.viewer?.lines();
      this.viewer?.render();
    });
  }

  // Filter and sort.
  arrange() {
    const [group, valid, by] = ["group", "valid", "sort"].map((name) => this.part(name).value);
    const value = (one) => {
      if (by.startsWith("info:")) return one.info[by.slice(5)];
      return by === "-energy" ? -one.energy : one[by];
    };
    this.shown = this.structures.filter(
      (one) => (group === "" || one.group === Number(group)) && (valid === "" || String(one.info.valid) === valid),
    );
    // Sorting is stable and the structures come by energy, so that energy decides among equals.
    const key = (one) => (Number.isFinite(Number(value(one) ?? NaN)) ? Number(value(one)) : Infinity);
    this.shown.sort((a, b) => (key(a) === key(b) ? a.index - b.index : key(a) - key(b)));
    this.active = 0;
    this.draw();
  }

  draw() {
    const cards = this.part("cards");
    const from = this.page * PAGE;
    const visible = this.shown.slice(from, from + PAGE);
    this.watch.disconnect();
    cards.replaceChildren(...visible.map((one, i) => this.card(one, from + i)));
    for (const card of cards.children) this.watch.observe(card);
    const count = this.shown.length.toLocaleString("en");
    const range = visible.length ? `${from + 1}–${from + visible.length} of ${count}` : "no structure fits the choice";
    this.part("range").textContent = range;
    this.part("before").disabled = this.page === 0;
    this.part("after").disabled = from + PAGE >= this.shown.length;
    this.part("everything").disabled = !this.shown.length;
    this.part("pager").hidden = this.structures.length <= PAGE;
    this.mark();
  }

  card(one, place) {
    const card = document.createElement("div");
    card.className = "card";
    card.dataset.place = place;
    card.id = `structure-${one.index}`;
    card.setAttribute("role", "option");
    card.setAttribute("aria-posinset", place + 1);
    card.setAttribute("aria-setsize", this.shown.length);
    card.setAttribute("aria-label", this.describe(one, place));
    const canvas = document.createElement("canvas");
    canvas.setAttribute("aria-hidden", "true");
    const main = document.createElement("span");
    main.className = "value";
    const name = document.createElement("span");
    name.className = this.energetic ? "formula" : "value";
    name.append(...formulaNodes(one.formula));
    main.textContent = Number.isFinite(one.energy) ? energyText(one.energy) : "no energy";
    card.append(canvas, ...(this.energetic ? [main] : []), name);
    if (this.part("group").length > 2) {
      const group = document.createElement("span");
      group.className = `group c${one.group % 8}`;
      group.append(document.createElement("i"), this.report.groups[one.group]);
      card.append(group);
    }
    if (one.info.valid === false) {
      const flag = document.createElement("span");
      flag.className = "flag";
      flag.textContent = "not valid";
      card.append(flag);
    }
    return card;
  }

  paint({ isIntersecting, target }) {
    const one = this.shown[Number(target.dataset.place)];
    if (!isIntersecting || !one) return;
    this.watch.unobserve(target);
    picture(target.firstChild, drawing(one, this.report.elements), this.report.elements, TILT);
  }

  describe(one, place) {
    const known = Number.isFinite(one.energy);
    const energy = known ? `, energy ${energyText(one.energy)}` : this.energetic ? ", no energy" : "";
    const group = this.report.groups.length > 1 ? `, ${this.report.groups[one.group]}` : "";
    return `${place + 1}: ${one.name}${energy}${group}${one.info.valid === false ? ", not valid" : ""}`;
  }

  // One card is in the tab order; the selected one is said to be.
  mark() {
    for (const card of this.part("cards").children) {
      const place = Number(card.dataset.place);
      card.tabIndex = place === this.active ? 0 : -1;
      card.setAttribute("aria-selected", this.shown[place] === this.selected);
    }
  }

  focus(place) {
    this.active = Math.max(0, Math.min(place, this.shown.length - 1));
    const page = Math.floor(this.active / PAGE);
    if (page !== this.page) {
      this.page = page;
      this.draw();
    }
    this.mark();
    this.part("cards").querySelector('[tabindex="0"]')?.focus();
  }

  turnPage(step) {
    this.page += step;
    this.active = this.page * PAGE;
    this.draw();
  }

  key(event) {
    const cards = [...this.part("cards").children];
    const columns = cards.filter((card) => card.offsetTop === cards[0].offsetTop).length;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -PAGE, PageDown: PAGE };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) this.focus(this.active + moves[event.key]);
    else if (event.key === "Home") this.focus(0);
    else if (event.key === "End") this.focus(this.shown.length - 1);
    else if (event.key === "Enter" || event.key === " ") this.select(this.shown[this.active], true);
    else return;
    event.preventDefault();
  }

  select(one, asked = false) {
    if (!one) return;
    this.selected = one;
    this.mark();
    this.part("name").replaceChildren(...formulaNodes(one.formula));
    this.part("about").replaceChildren(...this.facts(one).flatMap(([name, value]) => [made("dt", name), made("dd", value)]));
    this.part("repeat").hidden = !one.periodic;
    for (const [kind, format] of Object.entries(FORMATS)) this.part(kind).hidden = Boolean(format.needsCell) && !one.periodic;
    const box = this.part("viewer");
    box.setAttribute("aria-label", `${one.name} in 3D; arrow keys turn it, plus and minus zoom, 0 resets`);
    this.show();
    if (!asked) return;
    this.part("said").textContent = `Selected: ${this.describe(one, this.shown.indexOf(one))}`;
    const { bottom, top } = box.getBoundingClientRect();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const hidden = bottom < 80 || top > innerHeight - 80;
    if (hidden) this.part("panel").scrollIntoView({ block: "start", behavior: still ? "auto" : "smooth" });
  }

  facts(one) {
    const facts = [];
    if (Number.isFinite(one.energy)) {
      facts.push(["energy", energyText(one.energy, 4)]);
      if (one.n > 1) facts.push(["per atom", energyText(one.perAtom, 4)]);
    }
    if (this.report.groups.length > 1) facts.push(["group", this.report.groups[one.group]]);
    facts.push(["atoms", String(one.n)]);
    if (one.cell) {
      const lengths = one.cell.map((vector) => Math.hypot(...vector).toFixed(3)).join(", ");
      facts.push([one.pbc.every(Boolean) ? "cell" : "cell, part periodic", `${lengths} Å`]);
    }
    for (const [name, value] of Object.entries(one.info)) facts.push([name.replaceAll("_", " "), infoText(value)]);
    return facts;
  }

  save(kind) {
    const one = this.selected;
    const format = FORMATS[kind];
    download(`${one.name.slice(0, 40)}_${String(one.index + 1).padStart(4, "0")}.${format.end(one)}`, format.write(one, this.report));
  }
}

function energyText(value, digits = 3) {
  return `${value.toFixed(digits).replace("-", "−")} eV`;
}

function infoText(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return value;
  return String(Number.isInteger(value) ? value : Number(value.toPrecision(6))).replace("-", "−");
}

function made(tag, text) {
  const node = document.createElement(tag);
  node.textContent = text;
  return node;
}

function formulaNodes(formula) {
  return formula.flatMap(([symbol, number]) => (number > 1 ? [symbol, made("sub", number)] : [symbol]));
}

function start() {
  const root = document.getElementById("structures");
  if (!root) return;
  const report = JSON.parse(document.getElementById("data").textContent);
  report.structures = unpack(report);
  const gallery = new Gallery(root, report);
  requestAnimationFrame(() =>
    setTimeout(() => {
      gallery.open();
      performance.mark("drawn");
      root.dataset.drawn = gallery.viewer.solid ? "solid" : "flat";
    }),
  );
}

start();
