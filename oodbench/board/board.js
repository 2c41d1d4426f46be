"use strict";
// Data are put on the page as text alone (textContent, attributes), never as html.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const said = document.getElementById("said");
  const collator = new Intl.Collator("en", { numeric: true });
  const states = new Map();
  const WIDE = new Set(["settings", "tags"]);
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_POINTS = 1000;

  // --- elements ---------------------------------------------------------------------------------

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) element.append(child);
    }
    return element;
  }
  const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
  const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
  function show(...children) {
    main.replaceChildren();
    fill(main, {}, children);
  }
  // a name of any script, whose direction moves nothing around it
  const bdi = (text) => h("bdi", {}, text);
  const link = (key, id) => "#" + encodeURIComponent(key) + (id ? "/" + encodeURIComponent(id) : "");
  const count = (n) => n.toLocaleString("en");
  const short = (text) => text.slice(0, 12);
  let telling = 0;
  function tell(text) {
    clearTimeout(telling);
    telling = setTimeout(() => { said.textContent = text; }, 250);
  }

  // --- figures ----------------------------------------------------------------------------------

  const mean = (figure) => (figure ? figure[0] : null);
  function parts(figure) {
    const [, low, high, spread] = figure;
    const texts = [];
    if (spread !== undefined && spread !== null) texts.push("± " + spread.toFixed(2));
    if (low !== undefined && low !== null) texts.push(`[${low.toFixed(2)}, ${high.toFixed(2)}]`);
    return texts;
  }
  function figureCell(figure, isBest, withEnds) {
    const cell = h("td", { class: "num" + (isBest ? " best" : "") });
    if (!figure) {
      cell.textContent = "–";
      return cell;
    }
    cell.textContent = figure[0].toFixed(2);
    const texts = withEnds ? parts(figure) : [];
    if (texts.length) cell.append(h("span", { class: "ends" }, texts.join("\n")));
    return cell;
  }

  // --- columns ----------------------------------------------------------------------------------

  // how far the rows of an entry's seeds are checked, each word once
  const wordsOf = (e) => [...new Set(e.runs.map((run) => run.checked))];

  function columnsOf(benchmark, part) {
    const text = (id, title, of) => ({ id, title, text: of });
    const columns = [
      { id: "rank", title: "Rank", value: (e) => e.rank, low: true, whole: true },
      text("name", "Detector", (e) => e.detector),
      text("settings", "Settings", (e) => e.settings),
      text("method", "Method", (e) => (e.recipe ? `${e.method} (${e.recipe})` : e.method)),
      text("backbone", "Backbone", (e) => e.backbone),
    ];
    if (part.entries.some((e) => e.modality)) columns.push(text("modality", "Modality", (e) => e.modality || "fused"));
    if (part.entries.some((e) => e.tags.length)) columns.push(text("tags", "Tags", (e) => e.tags.join(", ")));
    columns.push(text("checked", "Checked", (e) => wordsOf(e).join(", ")));
    columns.push({ id: "seeds", title: "Seeds", value: (e) => e.seeds.length, whole: true });
    part.sets.forEach((set, i) => benchmark.figures.forEach((figure, k) => columns.push({
      id: `f.${i}.${k}`, title: `${set.name} ${figure.title}`, set: i, figure: k, low: figure.low,
      of: (e) => e.figures[i][k], value: (e) => mean(e.figures[i][k]),
    })));
    part.extras.forEach((extra, i) => columns.push({
      id: `x.${i}`, title: extra.title, low: extra.low, extra: i, of: (e) => e.extras[i], value: (e) => mean(e.extras[i]),
    }));
    const [set, figure] = part.ranked;
    if (part.entries.some((e) => e.published.length)) {
      const title = `${part.sets[set].name} ${benchmark.figures[figure].title}`;
      const of = (e) => e.published.find((p) => p.where === part.sets[set].name && p.figure === benchmark.figures[figure].title);
      columns.push(text("published", "Published " + title, (e) => of(e)?.printed || ""),
        { id: "difference", title: "Here less published", low: true, signed: true, value: (e) => of(e)?.difference ?? null });
    }
    return columns;
  }

  function stateOf(benchmark, number) {
    const name = benchmark.key + "/" + number;
    if (states.has(name)) return states.get(name);
    const part = benchmark.parts[number];
    const columns = columnsOf(benchmark, part);
    const means = part.sets.map((set, i) => (set.mean ? i : -1)).filter((i) => i >= 0);
    const sets = means.length ? means : part.sets.map((_, i) => i);
    const shown = new Set(["rank", "name", "settings", "method", "backbone", "modality", "checked", "seeds", "published", "difference"]);
    // what is the same in all lines takes no room until it is asked for
    for (const [id, of] of [["method", (e) => e.method + e.recipe], ["backbone", (e) => e.backbone], ["checked", (e) => wordsOf(e).join()]]) {
      if (new Set(part.entries.map(of)).size < 2) shown.delete(id);
    }
    if (part.entries.some((e) => e.modality) && part.entries.some((e) => !e.modality)) shown.delete("modality");
    const isNarrow = innerWidth < 640;
    const isTrained = shown.has("method"); // what tells entries of one detector apart stands under it on a phone
    if (isNarrow) ["settings", "method", "backbone", "checked", "seeds"].forEach((id) => shown.delete(id));
    part.extras.forEach((_, i) => { if (i < 2) shown.add(`x.${i}`); });
    const hasJoint = part.entries.some((e) => e.modality) && part.entries.some((e) => !e.modality);
    const state = {
      benchmark, number, part, columns, shown, sets: new Set(sets), figures: new Set([0, 1, 2]), ends: !isNarrow, below: isNarrow && isTrained,
      query: "", method: "*", backbone: "*", tag: "*", checked: "*", modality: hasJoint ? "=" : "*", start: hasJoint ? "=" : "*", sort: "rank", reverse: false, page: 0, per: 50,
      x: null, y: null, last: null, orders: new Map(),
    };
    // a note that all lines have marks none of them
    const [first] = part.entries;
    const common = new Set(first ? first.notes.filter((note) => part.entries.every((e) => e.notes.includes(note))) : []);
    part.entries.forEach((e) => { e.isNoted = e.notes.some((note) => !common.has(note)); });
    const value = (i, k) => `f.${i}.${k}`;
    [state.x, state.y] = sets.length > 1
      ? [value(sets[0], 0), value(sets[1], 0)]
      : ["x.0", value(part.ranked[0], part.ranked[1])];
    // one network has one accuracy: figures of the ranking then, against each other
    const across = columns.find((c) => c.id === state.x);
    if (!across || new Set(part.entries.map(across.value)).size < 2) state.x = value(part.ranked[0], benchmark.fpr);
    part.entries.forEach((e) => {
      e.hay = [e.detector, e.settings, e.method, e.recipe, e.backbone, e.modality || "", ...e.tags, e.id].join(" ").toLowerCase();
    });
    states.set(name, state);
    return state;
  }

  const visibleColumns = (state) => state.columns.filter((c) => (c.set === undefined
    ? state.shown.has(c.id)
    : state.sets.has(c.set) && state.figures.has(c.figure)));

  /** Numbers to sort by: a column's values, or the places of its texts in the alphabet. */
  function order(state, column) {
    if (state.orders.has(column.id)) return state.orders.get(column.id);
    const entries = state.part.entries;
    let keys;
    if (column.text) {
      const texts = [...new Set(entries.map(column.text))].sort(collator.compare);
      const places = new Map(texts.map((text, i) => [text, i]));
      keys = entries.map((e) => places.get(column.text(e)));
    } else keys = entries.map(column.value);
    state.orders.set(column.id, keys);
    return keys;
  }

  const has = (wanted, values) => wanted === "*" || values.includes(wanted.slice(1));
  const passes = (wanted, value) => wanted === "*" || wanted.slice(1) === value;

  function chosen(state) {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = [];
    state.part.entries.forEach((e, i) => {
      if (passes(state.method, e.method) && passes(state.backbone, e.backbone) && passes(state.modality, e.modality)
        && has(state.tag, e.tags) && (state.checked === "*" || has(state.checked, wordsOf(e))) && words.every((word) => e.hay.includes(word))) found.push(i);
    });
    const column = state.columns.find((c) => c.id === state.sort) || state.columns[0];
    const keys = order(state, column);
    // the best first: low rates, high figures; names from A
    const sign = (column.text || column.low ? 1 : -1) * (state.reverse ? -1 : 1);
    found.sort((a, b) => {
      if (keys[a] === null || keys[b] === null) return (keys[a] === null) - (keys[b] === null) || a - b;
      return sign * (keys[a] - keys[b]) || a - b;
    });
    return found;
  }

  // --- the front --------------------------------------------------------------------------------

  function leaders(benchmark, most) {
    const part = benchmark.parts[0];
    const state = stateOf(benchmark, 0);
    const seen = new Set();
    return part.entries.filter((e) => {
      if (seen.has(e.detector) || !passes(state.start, e.modality)) return false;
      seen.add(e.detector);
      return true;
    }).slice(0, most);
  }

  function front() {
    document.title = "OOD detection leaderboards";
    const cards = data.benchmarks.map((benchmark) => {
      const title = h("h2", {}, h("a", { href: link(benchmark.key) }, bdi(benchmark.name)));
      if (!benchmark.parts.length) return h("li", { class: "card" }, title, h("p", { class: "soft" }, "No results yet."));
      const part = benchmark.parts[0];
      const [set, figure] = part.ranked;
      const entries = benchmark.parts.reduce((sum, one) => sum + one.entries.length, 0);
      const detectors = new Set(benchmark.parts.flatMap((one) => one.entries.map((e) => e.detector))).size;
      const name = `${part.sets[set].name} ${benchmark.figures[figure].title}`;
      const rows = leaders(benchmark, 5).map((e) => h("tr", {},
        h("th", { scope: "row" }, h("a", { href: link(benchmark.key, e.id) }, bdi(e.detector))),
        h("td", { class: "soft" }, bdi(e.method), ", ", bdi(e.backbone)),
        figureCell(e.figures[set][figure], false, false)));
      return h("li", { class: "card" }, title,
        h("p", { class: "soft" }, `${benchmark.task}; ${count(entries)} entries of ${count(detectors)} detectors`),
        h("table", {},
          h("caption", { class: "unseen" }, "Leaders on ", benchmark.name),
          h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Leaders"), h("th", { scope: "col" }, "Network"), h("th", { scope: "col", class: "num" }, name))),
          h("tbody", {}, rows)));
    });
    const left = data.leftOut.map((one) => h("li", {}, bdi(one.name), ": ", one.why));
    show(
      h("h1", { tabindex: -1 }, "OOD detection leaderboards"),
      h("p", {}, `${count(data.benchmarks.length)} ${data.benchmarks.length === 1 ? "benchmark" : "benchmarks"}. `
        + "Each has a table of all entries; each entry has its settings, the command that repeats it, fingerprints and, where scores were kept, curves. The best entry of each detector leads."),
      h("ul", { class: "cards" }, cards),
      left.length ? h("div", { class: "note" }, h("h2", {}, "Not shown"), h("ul", {}, left)) : null,
    );
  }

  // --- a benchmark ------------------------------------------------------------------------------

  function select(label, value, options, change) {
    const box = h("select", { onchange: (event) => change(event.target.value) },
      options.map(([v, text]) => h("option", { value: v, selected: v === value }, text)));
    return h("label", {}, label, box);
  }
  function tick(text, on, change) {
    return h("label", {}, h("input", { type: "checkbox", checked: on, onchange: (event) => change(event.target.checked) }), " ", text);
  }

  function page(benchmark, number) {
    document.title = benchmark.name + " – OOD detection leaderboards";
    if (!benchmark.parts.length) {
      show(h("h1", { tabindex: -1 }, bdi(benchmark.name)), h("p", {}, "No results yet."));
      return;
    }
    const state = stateOf(benchmark, number);
    const part = state.part;
    const body = h("tbody");
    const head = h("thead");
    const group = h("colgroup");
    const pager = h("div", { class: "pager" });
    const plot = h("div", { class: "far" });
    const caption = h("caption", { class: "unseen" });
    let waiting = 0;

    const values = (of) => [...new Set(part.entries.flatMap(of))].sort(collator.compare);
    const filter = (label, name, of, title) => {
      const options = values(of);
      if (options.length < 2) return null;
      return select(label, state[name], [["*", "all"], ...options.map((v) => ["=" + v, title ? title(v) : v])],
        (v) => {
          state[name] = v;
          state.page = 0;
          if (name === "modality" && v !== state.start) {
            state.shown.add("modality");
            header();
          }
          update();
        });
    };
    const toggle = (set, item) => (on) => { if (on) set.add(item); else set.delete(item); header(); update(); };

    function header() {
      const cells = visibleColumns(state).map((column) => {
        const isSorted = state.sort === column.id;
        const rises = (column.text || column.low) !== state.reverse;
        const button = h("button", {
          type: "button",
          onclick: () => {
            state.reverse = state.sort === column.id ? !state.reverse : false;
            state.sort = column.id;
            state.page = 0;
            for (const cell of head.querySelectorAll("th")) mark(cell);
            update();
          },
        }, column.title, " ", h("span", { class: "arrow", "aria-hidden": "true" }));
        const kind = column.id === "name" ? "name" : column.text ? "" : "num";
        const cell = h("th", { scope: "col", class: kind, "data-column": column.id, "aria-sort": isSorted ? (rises ? "ascending" : "descending") : null }, button);
        cell.querySelector(".arrow").textContent = isSorted ? (rises ? "▲" : "▼") : "";
        return cell;
      });
      head.replaceChildren(h("tr", {}, cells));
    }
    function mark(cell) {
      const column = state.columns.find((c) => c.id === cell.dataset.column);
      const isSorted = state.sort === column.id;
      const rises = Boolean(column.text || column.low) !== state.reverse;
      if (isSorted) cell.setAttribute("aria-sort", rises ? "ascending" : "descending");
      else cell.removeAttribute("aria-sort");
      cell.querySelector(".arrow").textContent = isSorted ? (rises ? "▲" : "▼") : "";
    }

    // a line is a copy of an empty one, which is filled: that is quicker than to make its parts
    function emptyLine(columns) {
      return h("tr", {}, columns.map((column) => {
        if (column.id === "name") return h("th", { scope: "row", class: "name" }, h("a", {}, h("bdi")));
        if (column.text) return h("td", { class: WIDE.has(column.id) ? "wide" : null }, h("bdi"));
        return h("td", { class: "num" }, " ");
      }));
    }

    function line(empty, entry, columns, best) {
      const row = empty.cloneNode(true);
      let cell = row.firstChild;
      for (const column of columns) {
        if (column.id === "name") {
          const to = cell.firstChild;
          to.href = link(benchmark.key, entry.id);
          to.id = "to-" + entry.id;
          to.firstChild.textContent = entry.detector;
          if (state.below) cell.append(h("span", { class: "ends" }, bdi(entry.method)));
          for (const word of [entry.tuned && "tuned", entry.word, entry.isNoted && "note"]) {
            if (word) cell.append(h("span", { class: "chip" }, word));
          }
        } else if (column.text) {
          cell.firstChild.textContent = column.text(entry);
        } else if (column.whole) {
          cell.firstChild.data = String(column.value(entry));
        } else if (column.signed) {
          const value = column.value(entry);
          cell.firstChild.data = value === null ? "–" : (value > 0 ? "+" : "") + value.toFixed(2);
        } else {
          const figure = column.of(entry);
          cell.firstChild.data = figure ? figure[0].toFixed(2) : "–";
          if (figure && figure[0] === best.get(column.id)) cell.className = "num best";
          const texts = figure && state.ends ? parts(figure) : [];
          if (texts.length) cell.append(h("span", { class: "ends" }, texts.join("\n")));
        }
        cell = cell.nextSibling;
      }
      return row;
    }

    /** Widths are set, not measured from all cells: the table is there sooner and does not jump. */
    function measure(columns) {
      const narrow = innerWidth < 640;
      const wide = (column) => {
        if (column.id === "name") return narrow ? 9 : 11;
        if (column.text) return WIDE.has(column.id) ? 15 : 9;
        if (column.whole) return narrow ? 3.9 : 4.5;
        return state.ends && !column.signed ? 7.5 : 6;
      };
      const widths = columns.map(wide);
      group.replaceChildren(...widths.map((width) => {
        const one = h("col");
        one.style.width = width + "rem";
        return one;
      }));
      group.parentElement.style.width = widths.reduce((sum, width) => sum + width, 0) + "rem";
    }

    function update(all) {
      const found = chosen(state);
      const columns = visibleColumns(state);
      const best = new Map();
      for (const column of columns) {
        if (!column.of) continue;
        const keys = order(state, column);
        let [low, high] = [Infinity, -Infinity];
        for (const i of found) {
          if (keys[i] === null) continue;
          if (keys[i] < low) low = keys[i];
          if (keys[i] > high) high = keys[i];
        }
        if (low < high) best.set(column.id, column.low ? low : high);
      }
      const per = all ? found.length : state.per;
      const pages = Math.max(1, Math.ceil(found.length / Math.max(per, 1)));
      state.page = Math.min(state.page, pages - 1);
      const from = all ? 0 : state.page * per;
      const rows = found.slice(from, from + per);
      measure(columns);
      const empty = emptyLine(columns);
      const lines = document.createDocumentFragment();
      for (const i of rows) lines.append(line(empty, part.entries[i], columns, best));
      body.replaceChildren(lines);
      if (!rows.length) body.append(h("tr", {}, h("td", { colspan: columns.length }, "Nothing passes the filters.")));
      const sorted = state.columns.find((c) => c.id === state.sort);
      const range = rows.length ? `${count(from + 1)} to ${count(from + rows.length)} of ${count(found.length)} entries` : "no entries";
      caption.textContent = `${benchmark.name}: ${range}, sorted by ${sorted.title}${state.reverse ? ", reversed" : ""}`;
      tell(caption.textContent);
      turn(range, pages);
      clearTimeout(waiting);
      waiting = setTimeout(() => scatter(plot, state, found), 200);
    }

    function turn(range, pages) {
      const step = (by, text) => h("button", {
        type: "button", disabled: state.page + by < 0 || state.page + by >= pages, "data-step": by,
        onclick: () => { state.page += by; update(); pager.querySelector(`[data-step="${by}"]:enabled, button:enabled`)?.focus(); },
      }, text);
      pager.replaceChildren();
      fill(pager, {}, [
        h("p", {}, range),
        ...(pages > 1 ? [step(-1, "Previous"), step(1, "Next")] : []),
        part.entries.length > 50 ? h("label", {}, "per page ", h("select", {
          onchange: (event) => { state.per = Number(event.target.value); state.page = 0; update(); pager.querySelector("select").focus(); },
        }, [50, 100, 500].map((n) => h("option", { value: n, selected: n === state.per }, String(n))))) : null,
      ]);
    }

    const only = (kind) => part.sets.map((set, i) => (set.mean === kind
      ? tick(set.name + (kind ? " (mean)" : ""), state.sets.has(i), toggle(state.sets, i)) : null));
    const others = state.columns.filter((c) => c.set === undefined && c.id !== "name");
    show(
      h("h1", { tabindex: -1 }, bdi(benchmark.name)),
      ...about(benchmark, part),
      benchmark.parts.length > 1 ? h("div", { class: "tools" }, select("Measured on", String(number),
        benchmark.parts.map((one, i) => [String(i), `${i + 1}: ${one.title} (${one.entries.length} entries)`]),
        (v) => { page(benchmark, Number(v)); main.querySelector("select").focus(); })) : null,
      h("h2", {}, "Entries"),
      h("div", { class: "tools", role: "search" },
        h("label", {}, "Search", h("input", {
          type: "search", value: state.query, placeholder: "detector, method, setting …",
          oninput: (event) => { state.query = event.target.value; state.page = 0; update(); },
        })),
        filter("Method", "method", (e) => e.method),
        filter("Backbone", "backbone", (e) => e.backbone),
        filter("Modality", "modality", (e) => e.modality, (v) => v || "fused"),
        filter("Tag", "tag", (e) => e.tags),
        filter("Checked", "checked", wordsOf),
        h("label", { class: "tick" }, h("input", { type: "checkbox", checked: state.ends, onchange: (event) => { state.ends = event.target.checked; update(); } }), "intervals, ± seeds")),
      h("details", { class: "choose columns" }, h("summary", {}, "Columns: sets, figures, settings"),
        part.sets.some((set) => set.mean) ? h("fieldset", { class: "ticks" }, h("legend", {}, "Means of groups"), only(true)) : null,
        h("fieldset", { class: "ticks" }, h("legend", {}, "OOD sets"), only(false)),
        h("fieldset", { class: "ticks" }, h("legend", {}, "Figures of each"), benchmark.figures.map((figure, k) => tick(figure.title, state.figures.has(k), toggle(state.figures, k)))),
        h("fieldset", { class: "ticks" }, h("legend", {}, "Others"), others.map((c) => tick(c.title, state.shown.has(c.id), toggle(state.shown, c.id))))),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Entries of " + benchmark.name },
        h("table", { class: "board" }, caption, group, head, body)),
      pager,
      h("h2", {}, "Two figures of each entry"),
      h("div", { class: "tools" }, axisChoice("Across", "x"), axisChoice("Up", "y")),
      plot,
    );
    function axisChoice(label, axis) {
      const options = state.columns.filter((c) => c.of).map((c) => [c.id, c.title]);
      return select(label, state[axis], options, (v) => { state[axis] = v; scatter(plot, state, chosen(state)); });
    }
    header();
    update();
    window.onbeforeprint = () => update(true);
    window.onafterprint = () => update();
  }

  function about(benchmark, part) {
    const [first, ...rest] = benchmark.about.map((text) => h("p", {}, text));
    const sets = part.sets.filter((set) => !set.mean);
    return [
      first,
      h("details", { class: "choose" }, h("summary", {}, "What was measured, and how sure it is"),
        h("div", { class: "ticks" },
          h("div", {}, h("p", {}, "Higher is better for AUROC, AUPR and accuracy, lower for FPR@95. ID positive: the threshold keeps 95 % of ID, FPR is the share of OOD accepted. OOD positive: it catches 95 % of OOD, FPR is the share of ID rejected. The best of each column is bold."),
            rest, part.about.map((text) => h("p", {}, text)),
            h("ul", {}, sets.map((set) => h("li", {}, bdi(set.name), ` (${set.group}): ${count(set.n)}, `, h("code", {}, short(set.fingerprint)))))))),
    ];
  }

  // --- plots ------------------------------------------------------------------------------------

  const SHAPES = [
    "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0", "M-4.5,-4.5H4.5V4.5H-4.5Z", "M0,-6L5.6,4.4H-5.6Z", "M0,-6L6,0L0,6L-6,0Z",
    "M0,6L5.6,-4.4H-5.6Z", "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z", "M-6,-3H6V3H-6Z", "M-3,-3H3V3H-3Z",
  ];

  function ticksOf(low, high) {
    const raw = (high - low) / 5 || 1;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) ticks.push(Number((i * step).toPrecision(12)));
    return ticks;
  }

  /** Axes of a plot: the svg, and the places of values in it. */
  function axes(x, y, titles, attributes) {
    const [w, hgt, left, bottom, top, right] = [560, 380, 56, 46, 12, 14];
    const px = (v) => left + ((v - x[0]) / (x[1] - x[0])) * (w - left - right);
    const py = (v) => hgt - bottom - ((v - y[0]) / (y[1] - y[0])) * (hgt - bottom - top);
    const svg = s("svg", { viewBox: `0 0 ${w} ${hgt}`, ...attributes });
    for (const v of ticksOf(...x)) {
      svg.append(s("path", { class: "grid", d: `M${px(v)},${top}V${hgt - bottom}` }), s("text", { x: px(v), y: hgt - bottom + 17, "text-anchor": "middle" }, String(v)));
    }
    for (const v of ticksOf(...y)) {
      svg.append(s("path", { class: "grid", d: `M${left},${py(v)}H${w - right}` }), s("text", { x: left - 7, y: py(v) + 4, "text-anchor": "end" }, String(v)));
    }
    svg.append(s("path", { class: "axis", d: `M${left},${top}V${hgt - bottom}H${w - right}` }),
      s("text", { x: (left + w - right) / 2, y: hgt - 8, "text-anchor": "middle" }, titles[0]),
      s("text", { x: 14, y: (top + hgt - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(top + hgt - bottom) / 2})` }, titles[1]));
    return { svg, px, py };
  }

  const spread = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = (high - low) * 0.06 || 1;
    return [low - room, high + room];
  };

  function scatter(plot, state, found) {
    const columns = ["x", "y"].map((axis) => state.columns.find((c) => c.id === state[axis]));
    const points = found.slice(0, MOST_POINTS).map((i) => state.part.entries[i])
      .map((e) => ({ e, at: columns.map((c) => c.value(e)) })).filter((p) => p.at.every((v) => v !== null));
    if (!points.length) {
      plot.replaceChildren(h("p", {}, "Nothing to draw."));
      return;
    }
    const methods = [...new Set(state.part.entries.map((e) => e.method))].sort(collator.compare);
    const kind = (e) => Math.min(methods.indexOf(e.method), 7);
    points.sort((a, b) => a.at[0] - b.at[0]);
    const titles = columns.map((c) => c.title + ", %");
    const { svg, px, py } = axes(spread(points.map((p) => p.at[0])), spread(points.map((p) => p.at[1])), titles,
      { role: "group", "aria-label": `${titles[1]} against ${titles[0]}, ${points.length} entries. The arrow keys go from point to point.` });
    const links = points.map((p, i) => {
      const name = `${p.e.detector}${p.e.modality ? " (" + p.e.modality + ")" : ""}, ${p.e.method}, ${p.e.backbone}: ${columns.map((c, k) => `${c.title} ${p.at[k].toFixed(2)}`).join(", ")}`;
      return s("a", { href: link(state.benchmark.key, p.e.id), tabindex: i ? -1 : 0, "aria-label": name },
        s("title", {}, name), s("path", { class: "k" + kind(p.e), d: SHAPES[kind(p.e)], transform: `translate(${px(p.at[0]).toFixed(1)} ${py(p.at[1]).toFixed(1)})` }));
    });
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      const at = links.indexOf(document.activeElement);
      if (!by || at < 0) return;
      event.preventDefault();
      const next = links[(at + by + links.length) % links.length];
      links[at].setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
    svg.append(...links);
    const there = new Set(points.map((p) => kind(p.e)));
    const legend = [...there].sort().map((k) => h("li", {}, s("svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" }, s("path", { class: "k" + k, d: SHAPES[k] })), bdi(k === 7 && methods.length > 8 ? "other methods" : methods[k])));
    plot.replaceChildren(h("figure", {}, svg, h("ul", { class: "legend", "aria-label": "Methods" }, legend), h("figcaption", {}, "A point is an entry that passes the filters; it leads to its details."
      + (found.length > MOST_POINTS ? ` The first ${count(MOST_POINTS)} of the table are drawn.` : ""))));
  }

  function curves(entry, part) {
    const drawn = entry.curves;
    if (!drawn) return h("p", { class: "soft" }, "Its scores were not kept, so there are no curves.");
    const box = h("div", { class: "plots" });
    const draw = (i) => {
      const one = drawn.sets[i];
      const set = part.sets.findIndex((other) => other.name === one.ood);
      const auroc = entry.figures[set] && entry.figures[set][0];
      const roc = axes([0, 100], [0, 100], ["share of ID rejected (FPR), %", "share of OOD caught (TPR), %"],
        { role: "img", "aria-label": `ROC curve on ${one.ood}` });
      const line = one.roc.map((v, k) => `${roc.px(k * k / 100).toFixed(1)},${roc.py(v / 10).toFixed(1)}`);
      roc.svg.append(s("path", { class: "dash", d: `M${roc.px(0)},${roc.py(0)}L${roc.px(100)},${roc.py(100)}` }),
        s("path", { class: "curve", d: `M${roc.px(0)},${roc.py(0)}L` + line.join("L") }));
      const top = Math.max(...one.id, ...one.out) / 10 || 1;
      const histogram = axes(one.ends, [0, top * 1.05], ["score (higher = more OOD)", "share of the set, %"],
        { role: "img", "aria-label": `Histograms of the scores of ID and of ${one.ood}` });
      const step = (counts, kind) => {
        const width = (one.ends[1] - one.ends[0]) / counts.length;
        let d = `M${histogram.px(one.ends[0])},${histogram.py(0)}`;
        counts.forEach((v, k) => { d += `V${histogram.py(v / 10).toFixed(1)}H${histogram.px(one.ends[0] + (k + 1) * width).toFixed(1)}`; });
        return s("path", { class: kind, d: d + `V${histogram.py(0)}Z` });
      };
      histogram.svg.append(step(one.id, "ids"), step(one.out, "oods"));
      box.replaceChildren(
        h("figure", {}, roc.svg, h("figcaption", {}, "ROC, OOD being positive, ID against ", bdi(one.ood), drawn.seed === null ? "" : `, seed ${drawn.seed}`, auroc && entry.seeds.length === 1 ? `: AUROC ${auroc[0].toFixed(2)}.` : ".")),
        h("figure", {}, histogram.svg, h("ul", { class: "legend" },
          ["ids", "oods"].map((kind) => h("li", {}, s("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, s("rect", { class: kind, x: 1, y: 1, width: 12, height: 12 })), kind === "ids" ? "ID (solid)" : bdi(one.ood + " (dashed)")))),
        h("figcaption", {}, "Shares of each set's scores. The first and the last cell hold what lies beyond, too.")));
    };
    draw(0);
    let last = 0;
    const printed = [() => {
      const all = drawn.sets.flatMap((_, i) => { draw(i); return [...box.childNodes]; });
      box.replaceChildren(...all);
    }, () => draw(last)];
    [window.onbeforeprint, window.onafterprint] = printed;
    return [
      h("div", { class: "tools" }, select("OOD set", "0", drawn.sets.map((one, i) => [String(i), one.ood]), (v) => { last = Number(v); draw(last); })),
      box,
    ];
  }

  // --- an entry ---------------------------------------------------------------------------------

  function copied(text, what) {
    const block = h("pre", { tabindex: 0, "aria-label": what }, text);
    const button = h("button", {
      type: "button", class: "copy",
      onclick: async () => {
        try {
          await navigator.clipboard.writeText(text);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(block);
          button.textContent = "Selected: press Ctrl+C";
        }
        setTimeout(() => { button.textContent = "Copy"; }, 2000);
      },
    }, "Copy");
    button.setAttribute("aria-label", "Copy " + what);
    return h("div", {}, block, button);
  }

  function details(benchmark, part, entry) {
    const text = (number) => benchmark.texts[number];
    const name = entry.detector + (entry.modality ? ` (${entry.modality})` : "");
    document.title = `${name} on ${benchmark.name} – OOD detection leaderboards`;
    const term = (title, ...value) => [h("dt", {}, title), h("dd", {}, value)];
    const commands = [...new Set(entry.runs.map((run) => run.command))];
    const named = (run) => (entry.runs.length > 1 ? `seed ${run.seed}: ` : "");
    const several = entry.seeds.length > 1;
    const wide = (label, ...content) => h("div", { class: "scroll low", tabindex: 0, role: "region", "aria-label": label }, content);
    const table = wide("Figures on each set", h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "OOD"), benchmark.figures.map((f) => h("th", { scope: "col", class: "num" }, f.title)), h("th", { scope: "col", class: "num" }, "n"), h("th", { scope: "col" }, "Fingerprint"))),
      h("tbody", {}, part.sets.map((set, i) => h("tr", {},
        h("th", { scope: "row", class: set.mean ? "best" : null }, bdi(set.name), set.mean ? " (mean)" : ""),
        entry.figures[i].map((f) => figureCell(f, set.mean, true)),
        h("td", { class: "num" }, count(set.n)), h("td", {}, set.mean ? "" : h("code", {}, short(set.fingerprint))))))));
    const seeds = several && entry.each.length ? [h("h2", {}, "Each seed"), wide("Figures of each seed", h("table", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "OOD"), h("th", { scope: "col" }, "Figure"), entry.seeds.map((seed) => h("th", { scope: "col", class: "num" }, `seed ${seed}`)))),
      h("tbody", {}, part.sets.flatMap((set, i) => entry.each[i].map((values, k) => h("tr", {},
        h("th", { scope: "row" }, bdi(set.name)), h("td", {}, benchmark.figures[k].title),
        values.map((v) => h("td", { class: "num" }, v === null ? "–" : v.toFixed(2)))))))))] : [];
    const published = entry.published.length ? [h("h2", {}, "Published figures"), wide("Published figures", h("table", {},
      h("thead", {}, h("tr", {}, ["Figure", "Here", "Published", "Here less published", "Convention, source"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, entry.published.map((p) => h("tr", {}, h("th", { scope: "row" }, bdi(p.where), " ", p.figure), h("td", { class: "num" }, p.here.toFixed(2)), h("td", { class: "num" }, p.printed),
        h("td", { class: "num" }, (p.difference > 0 ? "+" : "") + p.difference.toFixed(2) + (p.beyond ? ", outside of the interval" : "")), h("td", {}, bdi(p.source)))))))] : [];
    show(
      h("p", {}, h("a", { href: link(benchmark.key) }, "All entries of ", bdi(benchmark.name))),
      h("h1", { tabindex: -1 }, bdi(name), h("span", { class: "soft" }, " on "), bdi(benchmark.name)),
      h("dl", {},
        term("Rank", `${entry.rank} of ${count(part.entries.length)} entries`, entry.word ? `, ${entry.word}` : ""),
        term("Settings", bdi(entry.settings)),
        term("Method", bdi(entry.method), entry.recipe ? [", recipe ", bdi(entry.recipe)] : ""),
        term("Backbone", bdi(entry.backbone)),
        entry.tags.length ? term("Tags", entry.tags.join(", ")) : [],
        entry.modality ? term("Modality", bdi(entry.modality)) : [],
        term(several ? "Seeds" : "Seed", entry.seeds.join(", ")),
        part.extras.map((extra, i) => (entry.extras[i] ? term(extra.title, entry.extras[i][0].toFixed(2), " ", h("span", { class: "soft" }, parts(entry.extras[i]).join(" "))) : [])),
        entry.tuned ? term("Settings chosen on validation data", bdi(entry.tuned)) : [],
        entry.twins.length ? term("The same figures as", entry.twins.map((id, i) => [i ? ", " : "", h("a", { href: link(benchmark.key, id) }, id)])) : []),
      entry.older ? h("p", { class: "note" }, "The detector's code has changed since: its figures may be others today.") : null,
      ...entry.notes.map((note) => h("p", { class: "note" }, note)),
      h("h2", {}, "Figures"),
      several ? h("p", { class: "soft" }, `Means of ${entry.seeds.length} seeds, ± the deviation over seeds; in brackets 95 % intervals.`) : h("p", { class: "soft" }, "In brackets 95 % intervals, where there are any."),
      table,
      ...published,
      h("h2", {}, "Curves"),
      ...[curves(entry, part)].flat(),
      ...seeds,
      h("h2", {}, "Repeat it"),
      ...commands.map((n, i) => (text(n) ? copied(text(n), commands.length > 1 ? `command ${i + 1}` : "the command") : h("p", {}, "It was made from Python, so there is no command."))),
      h("h2", {}, "What made it"),
      h("dl", {},
        entry.runs.map((run) => term(`${named(run)}versions`, bdi(text(run.with)), `; ${run.when}; ${run.seconds} s to fit and score`)),
        entry.runs.map((run) => term(`${named(run)}weights`, h("code", {}, run.weights))),
        entry.runs.map((run) => term(`${named(run)}checked`, run.checked)),
        entry.runs.map((run) => term(`${named(run)}result`, h("code", {}, run.results.join(", ") || "in a file of lines"), "; row ", h("code", {}, run.row))),
        term("ID test set", h("code", {}, entry.idTest)),
        entry.idTrain ? term("ID training set", h("code", {}, entry.idTrain)) : [],
        part.sets.filter((set) => !set.mean).map((set) => term([bdi(set.name)], h("code", {}, set.fingerprint)))),
      h("details", { class: "choose" }, h("summary", {}, "Recipe"), copied(text(entry.made), "the recipe")),
      h("details", { class: "choose" }, h("summary", {}, "Preprocessing"), copied(text(entry.input), "the preprocessing")),
      entry.bibtex.length ? h("h2", {}, "BibTeX") : null,
      entry.bibtex.length ? copied(entry.bibtex.map(text).join("\n\n"), "BibTeX") : null,
    );
  }

  // --- where we are -----------------------------------------------------------------------------

  function find(benchmark, id) {
    for (const part of benchmark.parts) {
      const entry = part.entries.find((e) => e.id === id || (id.length >= 8 && e.runs.some((run) => run.row.startsWith(id))));
      if (entry) return [part, entry];
    }
    return null;
  }

  let before = null;
  function route() {
    window.onbeforeprint = window.onafterprint = null;
    let where = location.hash.slice(1).split("/");
    try { where = where.map(decodeURIComponent); } catch { where = [""]; }
    const [key, id] = where;
    const benchmark = data.benchmarks.find((b) => b.key === key);
    const entry = benchmark && id ? find(benchmark, id) : null;
    if (entry) {
      const state = stateOf(benchmark, benchmark.parts.indexOf(entry[0]));
      state.last = entry[1].id;
      details(benchmark, ...entry);
    } else if (benchmark) {
      const number = benchmark.parts.findIndex((_, i) => states.get(`${key}/${i}`)?.last);
      page(benchmark, Math.max(number, 0));
      if (id) main.prepend(h("p", { class: "note" }, "There is no such entry here: ", bdi(id)));
    } else {
      front();
      if (key) main.prepend(h("p", { class: "note" }, "There is no such benchmark here: ", bdi(key)));
    }
    if (before !== null) {
      const last = benchmark && !entry ? [...states.values()].find((one) => one.benchmark === benchmark && one.last) : null;
      const back = last && document.getElementById("to-" + last.last);
      if (last) last.last = null;
      if (back) {
        back.focus();
        back.scrollIntoView({ block: "center" });
      } else {
        scrollTo(0, 0);
        main.querySelector("h1").focus({ preventScroll: true });
      }
    }
    before = location.hash;
  }

  // --- theme ------------------------------------------------------------------------------------

  const theme = document.getElementById("theme");
  function dress(name) {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
  }
  try { theme.value = localStorage.getItem("oodbench-theme") || ""; } catch { theme.value = ""; }
  dress(theme.value);
  theme.addEventListener("change", () => {
    dress(theme.value);
    try { localStorage.setItem("oodbench-theme", theme.value); } catch { /* nothing is kept */ }
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  document.getElementById("foot").append(h("p", {}, `Written by oodbench ${data.oodbench} from the results of the leaderboards; nothing on this page is fetched from elsewhere.`));
  window.addEventListener("hashchange", route);
  route();
})();
