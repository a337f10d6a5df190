// Starts Redoc on this service's own document, with fonts that every system has.
addEventListener("DOMContentLoaded", () => {
  document.body.style.margin = "0";
  Redoc.init("/openapi.json", {
    hideDownloadButton: false,
    expandResponses: "200,202",
    theme: {
      colors: { primary: { main: "#1f6f78" } },
      typography: {
        fontFamily: "system-ui, sans-serif",
        headings: { fontFamily: "system-ui, sans-serif" },
        code: { fontFamily: "ui-monospace, monospace" },
      },
    },
  }, document.getElementById("docs"));
});
