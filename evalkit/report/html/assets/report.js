// The report's two browsers: items that changed, judged conversations.
"use strict";
(function () {
  // Every text is set as text, never as HTML: model output is hostile.
  function make(tag, name, text) {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined && text !== null) node.textContent = String(text);
    return node;
  }
  function put(parent) {
    for (let i = 1; i < arguments.length; i++) parent.appendChild(arguments[i]);
    return parent;
  }
  function data(id) {
    const node = document.getElementById(id);
    return node ? JSON.parse(node.textContent) : null;
  }
  function options(select, names) {
    names.forEach(function (name, at) {
      const node = make("option", "", name);
      node.value = String(at);
      select.appendChild(node);
    });
  }
  function number(value, places) {
    return (value < 0 ? "−" : "") + Math.abs(value).toFixed(places);
  }
  function signed(value, places) {
    return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(places);
  }
  function row(tag, cells) {
    const line = make("tr");
    cells.forEach(function (cell, at) {
      line.appendChild(make(tag, at ? "number" : "", cell));
    });
    return line;
  }

  const changes = data("change-data");
  if (changes) browseChanges(changes);
  const talks = data("talk-data");
  if (talks && talks.length) browseTalks(talks);

  function browseChanges(all) {
    const PAGE = 25;
    const field = function (name) { return document.getElementById("change-" + name); };
    const search = field("search"), run = field("run"), endpoint = field("endpoint");
    const subject = field("subject"), kind = field("kind"), list = field("list"), more = field("more");
    options(run, all.runs);
    options(endpoint, all.endpoints);
    all.subjects.map(function (name, at) { return [name, at]; })
      .sort(function (a, b) { return a[0] < b[0] ? -1 : 1; })
      .forEach(function (pair) {
        const node = make("option", "", pair[0]);
        node.value = String(pair[1]);
        subject.appendChild(node);
      });
    const texts = new Map();
    let found = [], shown = 0, waiting = 0;

    function textOf(change) {
      const item = all.items[change[1]];
      if (!texts.has(change)) {
        const parts = [item[4], all.subjects[item[1]], item[2]].concat(item[5], [change[3][2], change[4][2], change[4][3]]);
        texts.set(change, parts.filter(Boolean).join("\n").toLowerCase());
      }
      return texts.get(change);
    }
    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = all.rows.filter(function (change) {
        const item = all.items[change[1]];
        return (run.value === "" || change[0] === Number(run.value)) &&
          (endpoint.value === "" || item[0] === Number(endpoint.value)) &&
          (subject.value === "" || item[1] === Number(subject.value)) &&
          (kind.value === "" || change[2] === Number(kind.value)) &&
          words.every(function (word) { return textOf(change).includes(word); });
      });
      list.replaceChildren();
      shown = 0;
      const lost = found.filter(function (change) { return change[2] === 0; }).length;
      let told = found.length + " of " + all.rows.length + " changes: " + lost + " lost, " + (found.length - lost) + " gained";
      Object.keys(all.left_out).forEach(function (name) {
        told += "; " + all.left_out[name] + " smaller changes of " + name + " are only in the run folders";
      });
      field("count").textContent = told;
      page();
    }
    function page() {
      found.slice(shown, shown + PAGE).forEach(function (change) { list.appendChild(entry(change)); });
      shown = Math.min(found.length, shown + PAGE);
      more.hidden = shown >= found.length;
    }
    function entry(change) {
      const item = all.items[change[1]], node = make("details", "change");
      const words = item[4].trim().split("\n\n").pop().replace(/\s+/g, " ") || item[2]; // the question, not its preface
      put(node, put(make("summary"),
        make("span", change[2] ? "gained" : "lost", change[2] ? "▲ gained" : "▼ lost"),
        make("span", "", all.runs[change[0]]), make("span", "", all.subjects[item[1]]), make("span", "", words)));
      node.addEventListener("toggle", function () {
        if (node.open && node.children.length === 1) node.appendChild(body(change, item));
      });
      return node;
    }
    function body(change, item) {
      const node = make("div");
      const other = change[4][3];
      if (other === undefined || other === null) {
        if (item[4] || item[3] !== null) prompt(node, "Both sides were asked the same", item[3], item[4]);
      } else {
        const sides = make("div", "sides"), left = make("div"), right = make("div");
        prompt(left, "Baseline was asked", item[3], item[4]);
        prompt(right, "Candidate was asked", null, other);
        put(node, put(sides, left, right));
      }
      if (change[3][0].length) node.appendChild(choices(change, item));
      if (change[3][2] || change[4][2]) {
        const sides = make("div", "sides");
        put(sides, put(make("div"), make("h4", "", "Baseline answers"), make("pre", "", change[3][2] || "")),
          put(make("div"), make("h4", "", "Candidate answers"), make("pre", "", change[4][2] || "")));
        node.appendChild(sides);
      }
      return put(node, make("p", "caption", "Item " + item[2] + " of " + all.rules[item[0]]));
    }
    function prompt(node, title, prefix, text) {
      node.appendChild(make("h4", "", title));
      if (prefix !== null && prefix !== undefined) {
        put(node, put(make("details"), make("summary", "", "worked examples before it"), make("pre", "", all.prefixes[prefix])));
      }
      node.appendChild(make("pre", "", text));
    }
    function choices(change, item) {
      const left = change[3], right = change[4], table = make("table", "choices"), rows = make("tbody");
      const shares = [shareOf(left[0]), shareOf(right[0])];
      put(table, put(make("thead"), row("th", ["choice", "log p, baseline", "log p, candidate", "change", "share, baseline", "share, candidate", "chosen by"])), rows);
      left[0].forEach(function (value, at) {
        const by = [left[1] === at ? "baseline" : "", right[1] === at ? "candidate" : ""].filter(Boolean).join(", ");
        const name = (item[5][at] || "choice " + (at + 1)).trim() + (at === item[6] ? "  (right)" : "");
        const line = row("td", [name, number(value, 3), number(right[0][at], 3), signed(right[0][at] - value, 3),
          (100 * shares[0][at]).toFixed(1) + " %", (100 * shares[1][at]).toFixed(1) + " %", by]);
        if (at === item[6]) line.className = "right";
        rows.appendChild(line);
      });
      return put(make("div", "wide"), table);
    }
    function shareOf(values) {
      const top = Math.max.apply(null, values);
      const weights = values.map(function (value) { return Math.exp(value - top); });
      const total = weights.reduce(function (sum, weight) { return sum + weight; }, 0);
      return weights.map(function (weight) { return weight / total; });
    }
    [run, endpoint, subject, kind].forEach(function (select) { select.addEventListener("change", filter); });
    search.addEventListener("input", function () {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 120);
    });
    field("filters").addEventListener("submit", function (event) { event.preventDefault(); filter(); });
    more.addEventListener("click", page);
    filter();
  }

  function browseTalks(all) {
    const field = function (name) { return document.getElementById("talk-" + name); };
    const task = field("task"), run = field("run"), question = field("question"), talk = document.getElementById("talk");
    options(task, all.map(function (one) { return one.task; }));

    function chosen() { return all[Number(task.value)]; }
    function refill() {
      run.replaceChildren();
      question.replaceChildren();
      chosen().runs.slice(1).forEach(function (name) {
        const node = make("option", "", name);
        node.value = name;
        run.appendChild(node);
      });
      options(question, chosen().questions.map(function (one, at) {
        return (at + 1) + ". " + one.category + ": " + (one.turns[0] || one.id).slice(0, 60);
      }));
      show();
    }
    function show() {
      const one = chosen().questions[Number(question.value)], base = chosen().runs[0];
      talk.replaceChildren();
      if (!one) return;
      const sides = [["Baseline", one.answers[base]], ["Candidate: " + run.value, one.answers[run.value]]];
      const turns = Math.max.apply(null, [one.turns.length].concat(sides.map(function (side) { return side[1] ? side[1].turns.length : 0; })));
      for (let turn = 0; turn < turns; turn++) {
        put(talk, make("h3", "", "Turn " + (turn + 1)), make("pre", "", one.turns[turn] || ""));
        const both = make("div", "sides");
        sides.forEach(function (side) { both.appendChild(answer(side[0], side[1], turn)); });
        talk.appendChild(both);
      }
      field("before").disabled = Number(question.value) === 0;
      field("after").disabled = Number(question.value) >= chosen().questions.length - 1;
    }
    function answer(name, given, turn) {
      const node = make("div");
      const said = given ? given.said.filter(function (one) { return one.turn === turn + 1; }) : [];
      const scores = said.filter(function (one) { return one.score !== null && !one.by.includes(", this answer shown "); }).map(function (one) { return one.score; });
      const mean = scores.length ? scores.reduce(function (sum, score) { return sum + score; }, 0) / scores.length : null;
      put(node, make("h4", "", name), make("p", "mean", mean === null ? "no rating" : "rated " + mean.toFixed(2) +
        (scores.length > 1 ? " (" + scores.map(function (score) { return score.toFixed(2); }).join(", ") + ")" : "")));
      node.appendChild(make("pre", "", given ? given.turns[turn] || "(no answer)" : "(no record)"));
      if (given && given.invalid) node.appendChild(make("p", "note", "Not usable: " + given.invalid));
      if (given && given.generations > 1) node.appendChild(make("p", "caption", "Generation 1 of " + given.generations + "; the others are in the run folder."));
      said.forEach(function (one) {
        const details = Object.keys(one.details).map(function (key) { return key + " " + one.details[key]; }).join(", ");
        const head = one.by + ", judgment " + (one.repeat + 1) + ": " + one.status + (one.score === null ? "" : ", " + one.score.toFixed(2)) + (details ? " (" + details + ")" : "");
        const box = put(make("div", "judgment"), make("div", "", head));
        if (one.text) box.appendChild(make("pre", "", one.text));
        node.appendChild(box);
      });
      return node;
    }
    function step(by) {
      const next = Number(question.value) + by;
      if (next >= 0 && next < chosen().questions.length) { question.value = String(next); show(); }
    }
    task.addEventListener("change", refill);
    run.addEventListener("change", show);
    question.addEventListener("change", show);
    field("before").addEventListener("click", function () { step(-1); });
    field("after").addEventListener("click", function () { step(1); });
    field("filters").addEventListener("submit", function (event) { event.preventDefault(); });
    refill();
  }
})();
