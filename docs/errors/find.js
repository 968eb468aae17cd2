// Shows the rows of the table of all messages that a pasted message was made from, or that hold what is typed.
const field = document.getElementById("message");
const found = document.getElementById("found");
const spaced = (text) => text.replace(/\s+/g, " ").trim();
const rows = [...document.querySelectorAll(".messages tbody tr")].map((row) => {
  const template = spaced(row.cells[0].textContent);
  const parts = template.split("…").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  // how much of a message is fixed: a template that is nearly all filled in would go with anything
  return { row, template: template.toLowerCase(), pattern: new RegExp(parts.join(".*"), "i"), fixed: parts.join("").length };
});

field.addEventListener("input", () => {
  const text = spaced(field.value);
  const made = rows.filter((each) => each.fixed > 12 && each.pattern.test(text));
  const shown = made.length ? made : rows.filter((each) => each.template.includes(text.toLowerCase()));
  for (const each of rows) each.row.hidden = !shown.includes(each);
  const links = shown.map((each) => each.row.cells[1].innerHTML);
  found.innerHTML = text ? [...new Set(links)].slice(0, 5).join(" · ") || "No message reads so." : "";
});
