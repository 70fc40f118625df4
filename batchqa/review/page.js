"use strict";
// Everything that comes from rows goes into the page as text, never as HTML.
const DATA = JSON.parse(document.getElementById("data").textContent);
const [RECORD, ID, DOCUMENT, QUESTION, STATE, SCORE, NULL_ODDS, ANSWERS, CANDIDATES, ERROR, DETAIL] = Array(11).keys();
const [TEXT, START, END, OWN_SCORE] = Array(4).keys();
const STATES = ["answered", "no answer", "error"];
const LOW = 0.5;
const byId = (id) => document.getElementById(id);
const list = byId("list"), space = byId("space"), detail = byId("detail");
const number = new Intl.NumberFormat("en");

// ------------------------------------------------------------------ what there is

const names = new Map(); // a question is what its name says, where it has one: its text may differ by document
const groupOf = DATA.questions.map(([name, text]) => {
  const key = name === null ? "t" + text : "n" + name;
  if (!names.has(key)) names.set(key, { key, name, text, rows: [] });
  return names.get(key);
});
const rowsOf = DATA.documents.map(() => []);
DATA.rows.forEach((row, at) => {
  rowsOf[row[DOCUMENT]].push(at);
  groupOf[row[QUESTION]].rows.push(at);
});
const groups = [...names.values()];
const groupNumber = new Map(groups.map((group, at) => [group, at]));
let folded = null; // documents in lower case, made when something is searched

const questionOf = (row) => DATA.questions[row[QUESTION]][1] || "(no question)";
const nameOf = (row) => DATA.questions[row[QUESTION]][0];
const isLow = (row) => row[ERROR] === "low_score" || (row[SCORE] !== null && row[SCORE] < LOW);
const FILTERS = [
  ["All", () => true],
  ["Answered", (row) => row[STATE] === 0],
  ["No answer", (row) => row[STATE] === 1],
  ["Error", (row) => row[STATE] === 2],
  ["Low score", isLow],
];

// ------------------------------------------------------------------ what is listed

const view = { what: "rows", filter: 0, question: "", search: "", sort: "order" };
let found = []; // numbers of rows, documents or groups, as `view.what` says
let current = -1; // the number of the row that is shown

function matches() {
  const needle = view.search.toLowerCase();
  let inDocument = null;
  if (needle) {
    folded ??= DATA.documents.map((text) => (text ?? "").toLowerCase());
    inDocument = folded.map((text) => text.includes(needle));
  }
  const passes = FILTERS[view.filter][1];
  const chosen = [];
  DATA.rows.forEach((row, at) => {
    if (!passes(row)) return;
    if (view.question && groupOf[row[QUESTION]].key !== view.question) return;
    if (needle && !inDocument[row[DOCUMENT]] && !questionOf(row).toLowerCase().includes(needle) &&
        !(row[ID] ?? "").toLowerCase().includes(needle) && !(nameOf(row) ?? "").toLowerCase().includes(needle) &&
        !row[ANSWERS].some((span) => span[TEXT].toLowerCase().includes(needle))) return;
    chosen.push(at);
  });
  const score = (at, missing) => DATA.rows[at][SCORE] ?? missing;
  if (view.sort === "low") chosen.sort((a, b) => score(a, 2) - score(b, 2) || a - b);
  if (view.sort === "high") chosen.sort((a, b) => score(b, -1) - score(a, -1) || a - b);
  if (view.sort === "text") {
    const order = (at) => groupNumber.get(groupOf[DATA.rows[at][QUESTION]]);
    chosen.sort((a, b) => order(a) - order(b) || a - b);
  }
  return chosen;
}

function update() {
  const rows = matches();
  let what = "row";
  if (view.what === "rows") found = rows;
  else {
    const of = (row) => (view.what === "documents" ? row[DOCUMENT] : groupNumber.get(groupOf[row[QUESTION]]));
    const together = new Map();
    for (const at of rows) {
      const key = of(DATA.rows[at]);
      if (!together.has(key)) together.set(key, []);
      together.get(key).push(at);
    }
    found = [...together].map(([key, members]) => ({ of: key, members }));
    what = view.what === "documents" ? "document" : "question";
  }
  const left = DATA.rows.length < DATA.total ? ` of the ${number.format(DATA.rows.length)} in this page` : "";
  byId("count").replaceChildren(`${number.format(found.length)} ${what}${found.length === 1 ? "" : "s"}${view.what === "rows" ? left : ""}`);
  if (view.question && !selectable) {
    const all = element("button", { textContent: "one question ✕", title: "Show the rows of all questions" });
    all.onclick = () => { setQuestion(""); update(); };
    byId("count").append(" · ", all);
  }
  space.style.height = `${found.length * height()}px`;
  list.scrollTop = 0;
  painted = null;
  paint();
}
// ------------------------------------------------------------------ the list: only what can be seen is in the page

let painted = null;
let measured = 0;
function height() {
  return (measured ||= 4.75 * parseFloat(getComputedStyle(document.documentElement).fontSize));
}

function paint() {
  const first = Math.max(0, Math.floor(list.scrollTop / height()) - 8);
  const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / height()) + 8);
  if (painted && painted[0] === first && painted[1] === last) return;
  painted = [first, last];
  const items = [];
  for (let at = first; at < last; at++) items.push(item(at));
  space.replaceChildren(...items);
  const chosen = view.what === "rows" ? found.indexOf(current) : -1;
  if (chosen >= first && chosen < last) list.setAttribute("aria-activedescendant", `item-${chosen}`);
  else list.removeAttribute("aria-activedescendant");
}

function item(at) {
  const box = element("div", { className: "item", id: `item-${at}` });
  box.setAttribute("role", "option");
  box.setAttribute("aria-posinset", at + 1);
  box.setAttribute("aria-setsize", found.length);
  box.style.top = `${at * height()}px`;
  if (view.what === "rows") {
    const row = DATA.rows[found[at]];
    box.setAttribute("aria-selected", found[at] === current);
    box.append(line("head", questionOf(row)), decision(row), foot(row[SCORE], [nameOf(row), row[ID], `row ${row[RECORD] + 1}`]));
    box.onclick = () => show(found[at], true);
  } else {
    const { of, members } = found[at];
    box.setAttribute("aria-selected", false);
    const answered = members.filter((member) => DATA.rows[member][STATE] === 0);
    const scores = members.map((member) => DATA.rows[member][SCORE]).filter((score) => score !== null);
    const mean = scores.length ? scores.reduce((sum, score) => sum + score, 0) / scores.length : null;
    const said = mean === null ? null : "mean score";
    const told = `${number.format(answered.length)} of ${number.format(members.length)} answered`;
    if (view.what === "documents") {
      box.append(line("head", (DATA.documents[of] ?? "(no text)").slice(0, 200)), line("", told), foot(mean, [DATA.rows[members[0]][ID], said]));
      box.onclick = () => { show(members[0], true); };
    } else {
      box.append(line("head", groups[of].text || "(no question)"), line("", told), foot(mean, [groups[of].name, said]));
      box.onclick = () => { setQuestion(groups[of].key); setView("rows"); };
    }
  }
  return box;
}

function decision(row) {
  if (row[STATE] === 2) return line("fault", row[ERROR]);
  if (row[STATE] === 1) return line("none", row[ERROR] === "low_score" ? "no answer (below --min-score)" : "no answer");
  return line("answer", row[ANSWERS].map((span) => span[TEXT]).join(" · "));
}

function foot(score, told) {
  const box = element("div", { className: "foot" });
  if (score !== null) box.append(element("span", { className: "number", textContent: score.toFixed(3) }), bar(score));
  box.append(element("span", { textContent: told.filter((each) => each !== null).join(" · ") }));
  return box;
}

function bar(score) {
  const box = element("span", { className: "bar" }), inner = element("i", {});
  box.setAttribute("aria-hidden", "true");
  inner.style.width = `${100 * Math.max(0, Math.min(1, score))}%`;
  box.append(inner);
  return box;
}

// ------------------------------------------------------------------ one row in its document

function show(at, open) {
  current = at;
  const row = DATA.rows[at], text = DATA.documents[row[DOCUMENT]];
  const place = found.indexOf(at);
  detail.replaceChildren(navigation(row, place));
  detail.append(element("h2", { textContent: questionOf(row), dir: "auto" }));
  if (row[STATE] === 2) detail.append(element("p", { className: "decided fault", textContent: row[DETAIL] ? `${row[ERROR]}: ${row[DETAIL]}` : row[ERROR] }));
  if (row[STATE] === 1) detail.append(element("p", { className: "decided none", textContent: "no answer" }));
  if (row[ANSWERS].length === 1) detail.append(element("p", { className: "decided answer", textContent: row[ANSWERS][0][TEXT], dir: "auto" }));
  if (row[SCORE] !== null) {
    const told = element("p", { className: "soft" });
    told.append(`score ${row[SCORE].toFixed(3)} `, bar(row[SCORE]));
    if (row[NULL_ODDS] !== null) told.append(element("span", { textContent: ` null odds ${row[NULL_ODDS].toFixed(2)}`, title: "The model’s score for “no answer” minus that of the best answer; “no answer” where it is above the threshold" }));
    detail.append(told);
  }
  if (row[ANSWERS].length > 1) detail.append(spans(row[ANSWERS]));
  if (row[CANDIDATES].length) {
    const more = element("details", { open: row[STATE] === 1 });
    more.append(element("summary", { textContent: `${row[CANDIDATES].length} candidates` }), spans(row[CANDIDATES]));
    detail.append(more);
  }
  if (text) detail.append(marked(text, at));
  const others = rowsOf[row[DOCUMENT]];
  if (others.length > 1 && text !== null) detail.append(siblings(others, at));
  detail.scrollTop = 0;
  const mark = detail.querySelector("mark.now");
  if (mark && mark.offsetTop > detail.clientHeight * 0.8) mark.scrollIntoView({ block: "center" });
  if (open) {
    document.body.classList.add("reading");
    if (narrow.matches) detail.focus({ preventScroll: true });
  }
  remember(at, open);
  painted = null;
  paint();
}

function navigation(row, place) {
  const box = element("div", { className: "nav" });
  const back = element("button", { id: "back", textContent: "← List" });
  back.onclick = close;
  box.append(back);
  if (view.what === "rows" && place >= 0) {
    for (const [label, step, name] of [["↑", -1, "Previous row"], ["↓", 1, "Next row"]]) {
      const button = element("button", { textContent: label, title: name, disabled: !(found[place + step] >= 0) });
      button.setAttribute("aria-label", name);
      button.onclick = () => move(step);
      box.append(button);
    }
  }
  const told = [nameOf(row), row[ID], `row ${number.format(row[RECORD] + 1)}`].filter((each) => each !== null);
  box.append(element("span", { className: "soft", textContent: told.join(" · ") }));
  return box;
}

function spans(all) {
  const table = element("table", { className: "spans" });
  for (const span of all) {
    const row = table.insertRow();
    const button = element("button", { textContent: span[TEXT], dir: "auto", title: "Show where it is" });
    button.onclick = () => point(span);
    row.insertCell().append(button);
    const cell = row.insertCell();
    cell.className = "number";
    if (span[OWN_SCORE] !== null) cell.append(span[OWN_SCORE].toFixed(3), " ", bar(span[OWN_SCORE]));
  }
  return table;
}

function marked(text, at) {
  const row = DATA.rows[at];
  const all = [];
  for (const other of rowsOf[row[DOCUMENT]]) {
    for (const span of DATA.rows[other][ANSWERS]) all.push({ span, kind: other === at ? "now" : "other", row: other });
  }
  for (const span of row[CANDIDATES]) all.push({ span, kind: "candidate", row: at });
  const rank = { now: 2, other: 1, candidate: 0 };
  const edges = new Set([0, text.length]);
  for (const { span } of all) edges.add(span[START]).add(span[END]);
  const cuts = [...edges].sort((a, b) => a - b);
  all.sort((a, b) => a.span[START] - b.span[START]);
  const box = element("div", { className: "document", dir: "auto" });
  let next = 0, open = [], before = null;
  for (let cut = 0; cut + 1 < cuts.length; cut++) {
    const [start, end] = [cuts[cut], cuts[cut + 1]];
    while (next < all.length && all[next].span[START] <= start) open.push(all[next++]);
    open = open.filter(({ span }) => span[END] > start);
    const piece = text.slice(start, end);
    if (!open.length) { box.append(piece); continue; }
    const top = open.reduce((a, b) => (rank[b.kind] > rank[a.kind] ? b : a));
    if (top === before && box.lastChild.dataset?.end === String(start)) { // one mark as long as its answer is on top
      box.lastChild.append(piece);
      box.lastChild.dataset.end = end;
      continue;
    }
    before = top;
    const mark = element("mark", { className: top.kind, textContent: piece, title: questionOf(DATA.rows[top.row]) });
    mark.dataset.start = start;
    mark.dataset.end = end;
    if (top.kind === "other") mark.onclick = () => show(top.row, true);
    box.append(mark);
  }
  return box;
}

function siblings(others, at) {
  const box = element("section", {}), all = element("ul", { className: "others" });
  box.append(element("h3", { textContent: `${number.format(others.length)} questions of this document` }));
  for (const other of others.slice(0, 200)) {
    const row = DATA.rows[other];
    const button = element("button", {});
    button.setAttribute("aria-pressed", other === at);
    const asked = element("span", { textContent: questionOf(row), dir: "auto" });
    const said = row[STATE] === 0 ? row[ANSWERS].map((span) => span[TEXT]).join(" · ") : row[STATE] === 1 ? "no answer" : row[ERROR];
    button.append(asked, element("span", { textContent: said, dir: "auto" }), element("span", { className: "number", textContent: row[SCORE] === null ? "" : row[SCORE].toFixed(2) }));
    button.onclick = () => show(other, true);
    const entry = element("li", {});
    entry.append(button);
    all.append(entry);
  }
  box.append(all);
  if (others.length > 200) box.append(element("p", { className: "soft", textContent: `and ${number.format(others.length - 200)} more` }));
  return box;
}

function point(span) {
  detail.querySelectorAll("mark.pointed").forEach((mark) => mark.classList.remove("pointed"));
  const inside = [...detail.querySelectorAll("mark")].filter((mark) => mark.dataset.end > span[START] && mark.dataset.start < span[END]);
  inside.forEach((mark) => mark.classList.add("pointed"));
  inside[0]?.scrollIntoView({ block: "center" });
}

// ------------------------------------------------------------------ moving about

const narrow = matchMedia("(max-width: 50rem)");

function move(step) {
  if (view.what !== "rows" || !found.length) return;
  const place = found.indexOf(current);
  go(place < 0 ? 0 : place + step);
}

function go(place) {
  const to = Math.max(0, Math.min(found.length - 1, place));
  if (!(found[to] >= 0)) return;
  const top = to * height();
  if (top < list.scrollTop) list.scrollTop = top;
  if (top + height() > list.scrollTop + list.clientHeight) list.scrollTop = top + height() - list.clientHeight;
  show(found[to], document.body.classList.contains("reading"));
}

function close() {
  document.body.classList.remove("reading");
  list.focus({ preventScroll: true });
}

function remember(at, open) {
  const covers = open && narrow.matches; // the row covers the list: the browser's Back uncovers it
  try { // a page inside another may not do this
    history[covers && !history.state?.open ? "pushState" : "replaceState"]({ at, open: covers }, "", `#row-${at}`);
  } catch { /* it is only the address */ }
}

function setView(what) {
  view.what = what;
  document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === what));
  update();
}

function setQuestion(key) {
  view.question = key;
  if (selectable) byId("question").value = key;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}

function line(className, text) {
  return element("div", { className, textContent: text, dir: "auto" });
}

FILTERS.forEach(([label, passes], at) => {
  const count = DATA.rows.reduce((sum, row) => sum + passes(row), 0);
  if (at > 2 && !count) return;
  const button = element("button", { textContent: `${label} ${number.format(count)}` });
  button.setAttribute("aria-pressed", at === 0);
  button.onclick = () => {
    view.filter = at;
    [...byId("states").children].forEach((other) => other.setAttribute("aria-pressed", other === button));
    update();
  };
  byId("states").append(button);
});
document.querySelectorAll("[data-view]").forEach((button) => { button.onclick = () => setView(button.dataset.view); });
byId("question").append(element("option", { value: "", textContent: `All ${number.format(groups.length)} questions` }));
const selectable = groups.length > 1 && groups.length <= 200; // longer ones are searched, or listed as questions
if (selectable) groups.forEach((group) => byId("question").append(element("option", { value: group.key, textContent: `${group.name ?? group.text}`.slice(0, 80) })));
byId("question").hidden = !selectable;
byId("question").onchange = (event) => { view.question = event.target.value; update(); };
byId("sort").onchange = (event) => { view.sort = event.target.value; update(); };
let waiting = 0;
byId("search").oninput = (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => { view.search = event.target.value.trim(); update(); }, 120);
};
list.onscroll = () => requestAnimationFrame(paint);
addEventListener("resize", () => { measured = 0; painted = null; space.style.height = `${found.length * height()}px`; paint(); });
addEventListener("popstate", (event) => {
  if (event.state && event.state.open) show(event.state.at, true);
  else close();
});
addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape") {
    if (typing) list.focus();
    else close();
    return;
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const reach = Math.max(1, Math.floor(list.clientHeight / height()) - 1);
  const place = found.indexOf(current);
  const inDetail = detail.contains(event.target);
  const to = { j: place + 1, k: place - 1, ...(inDetail ? {} : { ArrowDown: place + 1, ArrowUp: place - 1, PageDown: place + reach, PageUp: place - reach, Home: 0, End: found.length - 1 }) }[event.key];
  if (event.key === "/") { event.preventDefault(); byId("search").focus(); }
  else if (event.key === "Enter" && event.target === list && current >= 0) show(current, true);
  else if (to !== undefined && view.what === "rows") { event.preventDefault(); go(to); }
});

byId("facts").textContent = Object.entries(DATA.facts).map(([name, value]) => (name ? `${name}: ${value}` : value)).join(" · ");
update();
const asked = /^#row-(\d+)$/.exec(location.hash);
if (asked && DATA.rows[asked[1]]) show(Number(asked[1]), true);
else if (!narrow.matches && found.length) show(found[0], false);
