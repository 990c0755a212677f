#!/usr/bin/env bash
# What `gnomon cluster status` prints, as a picture of a terminal: text on stdin, SVG on stdout. The picture of README.md:
#
#   deploy/local/cluster.sh status |
#     deploy/local/status-svg.sh 'gnomon cluster status --server=http://127.0.0.1:19090' >docs/cluster-status.svg
set -euo pipefail

awk -v command="${1:-gnomon cluster status}" '
  # Blanks that are not taken together.
  function text(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s); gsub(/ /, "\\&#160;", s); return s }
  { lines[++n] = $0; if (length($0) > widest) widest = length($0) }
  END {
    # Pixels of a character and of a line, and around all of it.
    across = 8.4; down = 20; edge = 20; bar = 34
    if (length(command) + 2 > widest) widest = length(command) + 2
    width = int(widest * across + 2 * edge); height = bar + (n + 1) * down + 2 * edge
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\">\n", width, height, width, height
    print "<title>" text(command) "</title>"
    print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16191d\"/>"
    split("#ff5f57 #febc2e #28c840", lights, " ")
    for (i = 1; i <= 3; i++) printf "<circle cx=\"%d\" cy=\"18\" r=\"6\" fill=\"%s\"/>\n", i * 20, lights[i]
    print "<g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\" fill=\"#d5dae0\">"
    y = bar + edge
    printf "<text x=\"%d\" y=\"%d\"><tspan fill=\"#28c840\">$</tspan> %s</text>\n", edge, y, text(command)
    for (i = 1; i <= n; i++) {
      y += down
      if (lines[i] == "") continue
      # Headings of tables, and what is well.
      heading = lines[i] ~ /^(NODE|SHARD) /
      line = text(lines[i])
      if (!heading) { gsub(/;live/, ";<tspan fill=\"#5fd787\">live</tspan>", line); sub(/;ok$/, ";<tspan fill=\"#5fd787\">ok</tspan>", line) }
      printf "<text x=\"%d\" y=\"%d\" textLength=\"%.1f\"%s>%s</text>\n", edge, y, length(lines[i]) * across, heading ? " font-weight=\"bold\" fill=\"#8ab4f8\"" : "", line
    }
    print "</g>\n</svg>"
  }
'
