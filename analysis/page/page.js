"use strict";
(function () {
  const plots = JSON.parse(document.getElementById("plots").textContent);
  const live = [];  // 3-D plots hold a graphics context each, of which browsers allow few
  const every = function (what, root) { return Array.from((root || document).querySelectorAll(what)); };
  const narrow = function () { return window.innerWidth < 640; };
  const able = Boolean(document.createElement("canvas").getContext("webgl"));
  function draw(node) {
    if (node.dataset.drawn) { return; }
    node.dataset.drawn = "1";
    const plot = plots[Number(node.dataset.plot)];
    const base = { autosize: true, font: { size: 12 }, hovermode: "closest", paper_bgcolor: "#fff", plot_bgcolor: "#fff",
      margin: { l: 60, r: 15, t: 34, b: 50 }, showlegend: false };
    if (node.dataset.spatial === "1") {
      base.margin = { l: 0, r: 0, t: 30, b: 0 };
      live.push(node);
      if (live.length > 6) { const old = live.shift(); Plotly.purge(old); delete old.dataset.drawn; }
    }
    const layout = Object.assign(base, plot.layout);
    for (const name of ["xaxis", "yaxis"]) {
      if (layout[name]) { layout[name] = Object.assign({ gridcolor: "#e6e9ed", zerolinecolor: "#c3c9d0", automargin: true }, layout[name]); }
    }
    let data = plot.data;
    if (narrow()) {
      layout.font = { size: 10 };
      if (layout.scene) {  // seen from farther, so that its labels are in; the contours have the colours
        const eye = layout.scene.camera.eye;
        const camera = Object.assign({}, layout.scene.camera, { eye: { x: 1.15 * eye.x, y: 1.15 * eye.y, z: 1.15 * eye.z } });
        layout.scene = Object.assign({}, layout.scene, { camera: camera });
        data = data.map(function (trace) { return Object.assign({}, trace, { showscale: false }); });
      }
    }
    Plotly.newPlot(node, data, layout, { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover", scrollZoom: false });
  }
  const nodes = every(".plot").filter(function (n) {
    const flat = n.dataset.spatial === "1" && !able;
    if (flat) { n.parentNode.classList.add("flat"); }
    return !flat;
  });
  const flat = nodes.filter(function (n) { return n.dataset.spatial !== "1"; });
  const spatial = nodes.filter(function (n) { return n.dataset.spatial === "1"; });
  const queue = flat.concat(spatial.slice(0, 6));
  function next() {
    const node = queue.shift();
    if (node) { draw(node); setTimeout(next, 0); }
  }
  const watch = new IntersectionObserver(function (entries) {
    entries.forEach(function (e) { if (e.isIntersecting) { draw(e.target); } });
  }, { rootMargin: "200px" });
  spatial.forEach(function (node) { watch.observe(node); });
  setTimeout(next, 0);

  every(".legend button").forEach(function (button) {
    button.addEventListener("click", function () {
      const shown = button.getAttribute("aria-pressed") === "false";
      const node = document.getElementById("plot" + button.dataset.plot);
      if (!node.dataset.drawn) { draw(node); }
      button.setAttribute("aria-pressed", String(shown));
      Plotly.restyle(node, { visible: shown }, button.dataset.traces.split(" ").map(Number));
    });
  });
  every("a[href^='#fill-']").forEach(function (link) {
    link.addEventListener("click", function () { document.querySelector(".missing").open = true; });
  });

  let opened = [];
  window.addEventListener("beforeprint", function () {
    queue.length = 0;
    flat.forEach(draw);
    flat.forEach(function (node) {  // as large as on paper: drawn for a screen they would be cut
      const alone = node.closest(".alone") !== null;
      Plotly.relayout(node, { autosize: false, width: alone ? 690 : 340, height: alone ? 230 : 200, "font.size": alone ? 11 : 9 });
    });
    opened = every("details").filter(function (d) { return !d.open; });
    opened.forEach(function (d) { d.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (d) { d.open = false; });
    flat.forEach(function (node) {
      Plotly.relayout(node, { autosize: true, width: null, height: null, "font.size": narrow() ? 10 : 12 });
    });
  });

  every("table.sortable").forEach(function (table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach(function (head, column) {
      head.querySelector("button").addEventListener("click", function () {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach(function (h) { h.setAttribute("aria-sort", "none"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = function (row) {
          const cell = row.cells[column];
          if (cell.dataset.value === undefined) { return cell.textContent; }
          const value = { inf: Infinity, "-inf": -Infinity, nan: NaN, "": NaN }[cell.dataset.value];
          const number = value === undefined ? Number(cell.dataset.value) : value;
          return Number.isNaN(number) ? null : number;
        };
        const rows = Array.from(table.tBodies[0].rows);
        rows.sort(function (a, b) {
          const x = key(a), y = key(b);
          if (x === null || y === null) { return (x === null) - (y === null); }  // dashes last
          const order = typeof x === "string" ? x.localeCompare(y) : x === y ? 0 : x < y ? -1 : 1;
          return down ? -order : order;
        });
        rows.forEach(function (row) { table.tBodies[0].appendChild(row); });
      });
    });
  });
  document.documentElement.dataset.ready = "1";
}());
