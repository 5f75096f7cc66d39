// What Material leaves out for keyboards and screen readers: the search has a name, and tables that scroll sideways can be reached.
addEventListener("load", () => {
  document.querySelector(".md-search[role=dialog]")?.setAttribute("aria-label", "Search");
  const name = (table) => {
    const headings = [...document.querySelectorAll(".md-content :is(h1, h2, h3, h4)")];
    const above = headings.filter((heading) => heading.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING);
    return above.at(-1)?.firstChild?.textContent.trim() ?? "Table";
  };
  const reach = () => {
    document.querySelectorAll(".md-typeset__scrollwrap").forEach((wrap, number) => {
      if (wrap.scrollWidth <= wrap.clientWidth) return;
      wrap.tabIndex = 0;
      wrap.setAttribute("role", "region");
      wrap.setAttribute("aria-label", `Table ${number + 1}, ${name(wrap)}`);
    });
  };
  setTimeout(reach);
  addEventListener("resize", reach);
});
