const settings = { responsive: true, displaylogo: false, displayModeBar: false };
for (const [name, figure] of Object.entries(JSON.parse(document.getElementById("figures").textContent))) {
  Plotly.newPlot(name, figure.data, figure.layout, settings);
}
