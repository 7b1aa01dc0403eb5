"use strict";
const filter = document.getElementById("filter");
const links = [...document.querySelectorAll(".side li a")];
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const link of links) {
    link.parentElement.hidden = !words.every((word) => link.dataset.find.includes(word));
  }
  for (const heading of document.querySelectorAll(".side h2")) {
    heading.hidden = [...heading.nextElementSibling.children].every((item) => item.hidden);
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== filter) {
    event.preventDefault();
    filter.focus();
  }
});
for (const button of document.querySelectorAll(".code button")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("pre").textContent);
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1200);
  });
}
const here = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      for (const link of links) { link.classList.toggle("here", link.hash === "#" + entry.target.id); }
    }
  }
}, { rootMargin: "0px 0px -75% 0px" });
for (const operation of document.querySelectorAll(".operation")) { here.observe(operation); }
for (const pre of document.querySelectorAll(".curl")) {
  pre.textContent = pre.textContent.replaceAll("http://localhost:8080", location.origin);
}
