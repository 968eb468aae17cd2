// Draws the gallery's figures, each in the widest of its arrangements (tracer.plots.fit) that the page has room for.
for (const box of document.querySelectorAll("[data-figure]")) {
  const { data, layout } = window.figures[box.dataset.figure];
  const ways = (layout.meta?.arrangements ?? []).toSorted((a, b) => a.size[0] - b.size[0]);
  let taken = ways.find((way) => way.size[0] === layout.width);
  const arrange = () => {
    const best = ways.findLast((way) => way.size[0] <= box.clientWidth) ?? ways[0];
    if (best === taken) return;
    taken = best;
    Plotly.update(box, best.data, best.layout, best.traces);
  };
  Plotly.newPlot(box, data, layout, { displaylogo: false, showSendToCloud: false }).then(() => {
    arrange();
    addEventListener("resize", arrange);
  });
}
