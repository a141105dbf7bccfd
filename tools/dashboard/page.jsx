// The page: Grafana's own components for panels, time series, single values and tables, on its grid of 24 columns. Heatmaps,
// which its library does not have, are drawn here.

import "@fontsource/inter/400.css";
import "@fontsource/inter/500.css";
import "uplot/dist/uPlot.min.css";
import {
  applyFieldOverrides, createTheme, dateTime, FieldType, getFieldDisplayValues, getValueFormat, Registry, ThemeContext, toDataFrame,
} from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, Table, TimeSeries } from "@grafana/ui";
import { createRoot } from "react-dom/client";

const { dashboard, found, width: pageWidth, from, to } = window.preview;
const theme = createTheme({ colors: { mode: "dark" } });
const range = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
const GAP = 8, MARGIN = 16, HEADER = 48;
const column = (pageWidth - 2 * MARGIN + GAP) / 24;
const number = (text) => (text === "NaN" ? null : Number(text));

function legend(format, metric) {
  return format === "__auto" ? undefined : format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => metric[label] ?? "");
}

// One frame a series, with a null wherever Prometheus said nothing.
function seriesFrames({ step, first, last, targets }) {
  const times = Array.from({ length: Math.round((last - first) / step) + 1 }, (_, index) => (first + index * step) * 1000);
  return targets.flatMap((target) => target.result.map(({ metric, values }) => {
    const at = new Map(values.map(([time, value]) => [Math.round(time * 1000), number(value)]));
    return toDataFrame({
      refId: target.refId,
      fields: [
        { name: "Time", type: FieldType.time, values: times, config: { interval: step * 1000 } },
        { name: "Value", type: FieldType.number, values: times.map((time) => at.get(time) ?? null), labels: metric,
          config: { displayNameFromDS: legend(target.legendFormat, metric) } },
      ],
    });
  }));
}

// The panel's `organize` decides which labels are columns, their order and their names.
function tableFrame(panel, { targets }) {
  const { excludeByName = {}, indexByName = {}, renameByName = {} } =
    (panel.transformations ?? []).find(({ id }) => id === "organize")?.options ?? {};
  const rows = targets.flatMap(({ result }) => result.map(({ metric, value }) => ({ ...metric, Value: number(value[1]) })));
  const names = [...new Set(rows.flatMap(Object.keys))].filter((name) => !excludeByName[name]);
  names.sort((a, b) => (indexByName[a] ?? 99) - (indexByName[b] ?? 99));
  return toDataFrame({ fields: names.map((name) => ({ name: renameByName[name] || name, values: rows.map((row) => row[name] ?? null) })) });
}

// Applies units, thresholds, colours and overrides as Grafana does, with the properties that this panel sets.
function configured(panel, data) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  const set = [
    ...Object.keys(defaults), ...Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`),
    ...overrides.flatMap((rule) => rule.properties.map(({ id }) => id)),
  ].filter((id) => id !== "custom");
  const fieldConfigRegistry = new Registry(() => [...new Set(set)].map((id) => ({
    id, path: id.replace("custom.", ""), isCustom: id.startsWith("custom."), name: id, process: (value) => value, shouldApply: () => true,
  })));
  return applyFieldOverrides({
    data, fieldConfig: { defaults, overrides }, fieldConfigRegistry, replaceVariables: (text) => text, theme, timeZone: "utc",
  });
}

function Stat({ panel, width, height }) {
  const data = configured(panel, seriesFrames(found[panel.id]));
  const values = getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, data,
    sparkline: panel.options.graphMode !== "none", timeZone: "utc",
  });
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  return values.map(({ display, sparkline }, index) => (
    <BigValue key={index} value={display} width={width} height={height} theme={theme} count={values.length}
      sparkline={sparkline} {...{ colorMode, graphMode, justifyMode, textMode }} />
  ));
}

function Lines({ panel, width, height }) {
  const frames = configured(panel, seriesFrames(found[panel.id]));
  if (!frames.length) return <p style={{ textAlign: "center", paddingTop: height / 3 }}>No data</p>;
  return <TimeSeries frames={frames} timeRange={range} timeZone="utc" legend={panel.options.legend} {...{ width, height }} />;
}

function Cells({ panel, width, height }) {
  const [data] = configured(panel, [tableFrame(panel, found[panel.id])]);
  return <Table data={data} width={width} height={height} cellHeight={panel.options.cellHeight} ariaLabel={panel.title} />;
}

function Heatmap({ panel, width, height }) {
  const { step, first, last, targets } = found[panel.id];
  const left = 52, bottom = 22;
  const buckets = targets[0].result.map(({ metric, values }) => ({ bound: Number(metric.le.replace("+Inf", "Infinity")), values }));
  buckets.sort((a, b) => a.bound - b.bound);
  const cells = buckets.flatMap(({ values }, row) => {
    const below = new Map(row ? buckets[row - 1].values : []);
    return values.map(([time, value]) => ({ row, time, count: Number(value) - Number(below.get(time) ?? 0) }));
  }).filter(({ count }) => count > 0);
  const most = Math.max(...cells.map(({ count }) => count));
  const cellWidth = (width - left) / ((last - first) / step + 1), cellHeight = (height - bottom) / buckets.length;
  const y = (row) => height - bottom - (row + 1) * cellHeight;
  const format = getValueFormat(panel.options.yAxis?.unit ?? "short");
  const name = ({ text, suffix }) => Number(text) + (suffix ?? "");
  const every = Math.ceil(14 / cellHeight);
  const shade = (count) => theme.visualization.getColorByName("blue") + Math.round(40 + 215 * (count / most) ** 0.5).toString(16);
  const minutes = Array.from({ length: 4 }, (_, index) => first + ((index + 0.5) * (last - first)) / 4);
  const text = { fill: theme.colors.text.secondary, fontSize: 11 };
  return (
    <svg width={width} height={height}>
      {cells.map(({ row, time, count }) => (
        <rect key={`${row} ${time}`} x={left + ((time - first) / step) * cellWidth} y={y(row)}
          width={cellWidth} height={cellHeight - 1} fill={shade(count)} />
      ))}
      {buckets.map(({ bound }, row) => row % every === 0 && (
        <text key={row} x={left - 6} y={y(row) + cellHeight / 2 + 4} textAnchor="end" {...text}>
          {bound === Infinity ? "+Inf" : name(format(bound))}
        </text>
      ))}
      {minutes.map((time) => (
        <text key={time} x={left + ((time - first) / (last - first)) * (width - left)} y={height - 6} textAnchor="middle" {...text}>
          {dateTime(time * 1000).utc().format("HH:mm")}
        </text>
      ))}
    </svg>
  );
}

const KINDS = { stat: Stat, timeseries: Lines, table: Cells, heatmap: Heatmap };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: "absolute", left: MARGIN + x * column, top: HEADER + y * 38 };
  if (panel.type === "row") return <div style={{ ...place, paddingTop: 6, fontWeight: 500 }}>⌄ {panel.title}</div>;
  const Kind = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome title={panel.title} description={panel.description} width={w * column - GAP} height={h * 38 - GAP}>
        {(width, height) => <Kind {...{ panel, width, height }} />}
      </PanelChrome>
    </div>
  );
}

// Numbers are sized to their boxes by the width of the letters, so the letters come first.
await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 14px Inter`)));
const clock = (time) => dateTime(time).utc().format("HH:mm");
createRoot(document.getElementById("page")).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <style>{"* { box-sizing: border-box }"}</style>
    <div style={{ padding: 14, fontSize: 18 }}>{dashboard.title} <small>· {clock(from)} to {clock(to)} UTC</small></div>
    {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
  </ThemeContext.Provider>,
);
