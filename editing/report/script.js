// Tables that sort, filter and turn pages; figures; and the answers of one case.
// Texts come from records and models: they are only ever set as textContent.
"use strict";
(() => {
  const read = (name) => JSON.parse(document.getElementById(`data-${name}`).textContent);

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // A text from elsewhere: its direction is its own, whatever marks it holds.
  const literal = (tag, text, attributes = {}) => make(tag, text, { dir: "auto", ...attributes });

  // --- tables -----------------------------------------------------------------------------------------------------
  // A cell is a text, or [number or null to sort by, what is shown, what is shown small below].
  const value = (cell) => (Array.isArray(cell) ? cell[0] : cell.toLowerCase());
  const shown = (cell) => (Array.isArray(cell) ? cell[1] : cell);

  const compare = (a, b) => {
    if (a === null || b === null) return 0;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), undefined, { numeric: true });
  };

  class Grid {
    // box: where it goes. open(row): what a click on the first cell does; null: nothing.
    constructor(box, { columns, rows }, open = null) {
      Object.assign(this, { box, columns, open, page: 0, sorted: -1, down: false });
      this.size = Number(box.dataset.page);
      this.filter = make("input", "", { type: "search", placeholder: "words, all of them", autocomplete: "off" });
      const label = make("label", "Filter ");
      this.filter.setAttribute("aria-label", `Filter ${box.dataset.label}`);
      label.append(this.filter);
      this.filter.addEventListener("input", () => { this.page = 0; this.show(); });
      this.status = make("span", "", { role: "status" });
      this.back = this.turn("‹ Previous", -1);
      this.next = this.turn("Next ›", 1);
      const bar = make("div", "", { class: "bar" });
      bar.append(label, this.status, this.back, this.next);
      const table = make("table");
      table.append(make("caption", box.dataset.label), this.head(), (this.body = make("tbody")));
      const wide = make("div", "", { class: "wide", tabindex: "0", role: "region", "aria-label": box.dataset.label });
      wide.append(table);
      box.replaceChildren(bar, wide);
      this.fill(rows);
    }

    fill(rows) {
      this.rows = rows.map((cells, place) => ({ cells, place, text: cells.map(shown).join(" ").toLowerCase() }));
      this.page = 0;
      this.show();
    }

    head() {
      const line = make("tr");
      this.heads = this.columns.map(({ title, hint }, column) => {
        const button = make("button", title, { type: "button", title: hint || `sort by ${title}` });
        button.addEventListener("click", () => this.sort(column));
        const cell = make("th", "", { scope: "col", "aria-sort": "none" });
        cell.append(button);
        line.append(cell);
        return cell;
      });
      const head = make("thead");
      head.append(line);
      return head;
    }

    // Numbers: the highest first; texts: from a on; a second click turns that round.
    sort(column) {
      const numeric = this.rows.some(({ cells }) => Array.isArray(cells[column]));
      this.down = this.sorted === column ? !this.down : numeric;
      this.sorted = column;
      this.page = 0;
      this.heads.forEach((cell, place) => {
        cell.setAttribute("aria-sort", place !== column ? "none" : this.down ? "descending" : "ascending");
      });
      this.show();
    }

    turn(text, step) {
      const button = make("button", text, { type: "button" });
      button.addEventListener("click", () => { this.page += step; this.show(); });
      return button;
    }

    found() {
      const words = this.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      const rows = this.rows.filter(({ text }) => words.every((word) => text.includes(word)));
      if (this.sorted < 0) return rows;
      const of = ({ cells }) => value(cells[this.sorted]);
      return rows.sort((a, b) => {
        const missing = (of(a) === null) - (of(b) === null);  // at the end, however it is sorted
        return missing || (this.down ? -1 : 1) * compare(of(a), of(b)) || a.place - b.place;
      });
    }

    show() {
      const rows = this.found();
      const pages = Math.max(1, Math.ceil(rows.length / this.size));
      this.page = Math.min(Math.max(this.page, 0), pages - 1);
      const first = this.page * this.size;
      const part = rows.slice(first, first + this.size);
      this.body.replaceChildren(...part.map((row) => this.line(row)));
      this.status.textContent = rows.length === 0 ? "nothing found"
        : pages === 1 ? `${rows.length} of ${this.rows.length} rows`
        : `rows ${first + 1} to ${first + part.length} of ${rows.length}`;
      this.back.disabled = this.page === 0;
      this.next.disabled = this.page === pages - 1;
      this.back.hidden = this.next.hidden = pages === 1;
    }

    line({ cells, place }) {
      const line = make("tr");
      cells.forEach((cell, column) => {
        const tag = column === 0 ? "th" : "td";
        if (Array.isArray(cell)) {
          const filled = make(tag, cell[1], { class: "number" });
          if (cell[2]) filled.append(make("small", cell[2]));
          line.append(filled);
        } else if (column === 0 && this.open) {
          const button = literal("button", cell, { type: "button" });
          button.addEventListener("click", () => this.open(place));
          const filled = make(tag, "", { scope: "row" });
          filled.append(button);
          line.append(filled);
        } else line.append(literal(tag, cell, column === 0 ? { scope: "row" } : {}));
      });
      return line;
    }
  }

  const tables = read("tables");
  for (const [name, content] of Object.entries(tables)) {
    const box = document.getElementById(name);
    if (box) new Grid(box, content);
  }

  // --- figures ----------------------------------------------------------------------------------------------------
  const config = { displaylogo: false, responsive: false, showSendToCloud: false };
  for (const [name, { data, layout }] of Object.entries(read("figures"))) {
    Plotly.newPlot(document.getElementById(`figure-${name}`), data, layout, config);
  }

  // --- cases ------------------------------------------------------------------------------------------------------
  const { texts, cases, series } = read("cases");
  const box = document.getElementById("case");
  if (!box) return;
  const choice = document.getElementById("series");
  series.forEach(({ name, shown }, place) => {
    if (shown) choice.append(make("option", name, { value: place }));
  });
  const edited = series.findIndex(({ before, shown }) => shown && before >= 0);
  choice.value = String(Math.max(edited, 0));

  const text = (place) => (place < 0 ? null : texts[place]);
  const dash = (shown) => (shown === null ? "–" : shown);
  const yes = (number) => (number === null ? "–" : number === 1 ? "yes" : number === 0 ? "no" : number.toFixed(2));
  const loss = (number) => (number === null ? "–" : number.toFixed(3));
  const change = (before, after, show) => {
    if (before === undefined || show(before) === show(after)) return show(after);
    return `${show(before)} → ${show(after)}`;
  };
  // The answers of a case by question: [nll, nll_against, accuracy, exact, match, generated, memories].
  const answers = (which, number) =>
    new Map(((series[which] || { answers: {} }).answers[number] || []).map(([row, ...rest]) => [row, rest]));

  const columns = ["case", "subject", "prompt", "expected", "wrote before", "writes now", "match", "questions matched"]
    .map((title) => ({ title, hint: "" }));
  let open = [];  // of the rows shown, the places of their cases

  const line = (number) => {
    const [id, subject, questions] = cases[number];
    const now = answers(Number(choice.value), number);
    const old = answers(series[choice.value].before, number);
    const first = Math.max(questions.findIndex(([kind]) => text(kind) === "rewrite"), 0);
    const [, prompt, answer] = questions[first] || [-1, -1, -1];
    const wrote = (from) => dash(text((from.get(first) || [null, null, null, null, null, -1])[5]));
    const judged = [...now.values()].map((each) => each[4]).filter((each) => each !== null);
    const right = judged.length ? judged.reduce((sum, each) => sum + each, 0) / judged.length : null;
    const match = (now.get(first) || [])[4] ?? null;
    return [id, subject, dash(text(prompt)), dash(text(answer)), wrote(old), wrote(now), [match, yes(match), ""],
      [right, right === null ? "–" : `${(100 * right).toFixed(0)} %`, `${judged.length} judged`]];
  };

  const heading = (names) => {
    const line = make("tr");
    line.append(...names.map((name) => make("th", name, { scope: "col" })));
    const head = make("thead");
    head.append(line);
    return head;
  };

  const details = (number) => {
    const [id, subject, questions] = cases[number];
    const which = Number(choice.value);
    const now = answers(which, number);
    const old = answers(series[which].before, number);
    const asked = make("tbody");
    const written = make("tbody");
    questions.forEach(([kind, prompt, answer, against], row) => {
      const after = now.get(row);
      const before = old.get(row);
      if (!after) return;
      const was = (place) => (before ? before[place] : undefined);
      const line = make("tr");
      line.append(make("th", text(kind), { scope: "row" }), literal("td", dash(text(prompt))));
      if (text(after[6]) !== null) {
        line.cells[1].append(make("div", text(after[6]), { class: "route" }));
      }
      const wrote = [before ? dash(text(before[5])) : "–", dash(text(after[5]))]
        .map((each) => literal("td", each, { class: "written" }));
      if (text(kind) === "text") {
        line.append(...wrote);
        written.append(line);
        return;
      }
      line.append(literal("td", dash(text(answer))), literal("td", dash(text(against))),
        make("td", change(was(0), after[0], loss), { class: "number" }),
        make("td", change(was(1), after[1], loss), { class: "number" }),
        make("td", change(was(2), after[2], yes)), make("td", change(was(3), after[3], yes)),
        make("td", change(was(4), after[4], yes)), ...wrote);
      asked.append(line);
    });
    const title = literal("h3", `Case ${id}: ${subject}, ${series[which].name}`);
    const parts = [title];
    for (const [body, label, names] of [
      [asked, "Questions", ["kind", "prompt", "expected", "against", "loss", "loss of the other", "tokens right",
        "all right", "match", "wrote before", "writes now"]],
      [written, "Continuations", ["kind", "prompt", "before", "after"]],
    ]) {
      if (!body.children.length) continue;
      const table = make("table");
      table.append(make("caption", label), heading(names), body);
      const wide = make("div", "", { class: "wide", tabindex: "0", role: "region", "aria-label": label });
      wide.append(table);
      parts.push(wide);
    }
    box.replaceChildren(...parts);
    box.dataset.case = number;
  };

  const list = () => {
    const own = series[choice.value].answers;
    open = cases.map((_, number) => number).filter((number) => own[number]);
    return open.map(line);
  };

  const table = new Grid(document.getElementById("cases"), { columns, rows: list() }, (place) => {
    details(open[place]);
    box.focus({ preventScroll: true });
    box.scrollIntoView({ block: "nearest" });
  });
  choice.addEventListener("change", () => {
    table.fill(list());
    if (box.dataset.case !== undefined) details(Number(box.dataset.case));
  });
})();
