//! `lenslet calc`

use anyhow::{Context, Result, bail};
use lenslet_graph::{Conv, Window, conv_cost, receptive_field, separable_cost};
use serde_json::json;

use crate::Ended;
use crate::cli::{Calc, CalcArgs, Common};
use crate::report::{self, grouped};

pub fn run(args: &CalcArgs, common: &Common) -> Result<Ended> {
    match &args.what {
        Calc::Conv {
            input,
            kernel,
            stride,
            padding,
            dilation,
            in_channels,
            out_channels,
            groups,
            bias,
        } => {
            let window = Window {
                kernel: *kernel,
                stride: *stride,
                padding: *padding,
                dilation: *dilation,
            };
            conv(
                &Conv {
                    input: *input,
                    window,
                    in_channels: *in_channels,
                    out_channels: *out_channels,
                    groups: *groups,
                    bias: *bias,
                },
                common,
            )?;
        }
        Calc::ReceptiveField { layers } => fields(layers, common)?,
        Calc::Separable {
            channels,
            out_channels,
            kernel,
        } => separable(
            *kernel,
            *channels,
            out_channels.unwrap_or(*channels),
            common,
        )?,
    }
    Ok(Ended::Done)
}

fn conv(conv: &Conv, common: &Common) -> Result<()> {
    let cost = conv_cost(conv)?;
    if common.json {
        return report::print_json(&cost);
    }
    let mut table = report::table(&["convolution", ""]);
    let size = format!("{0} x {1} x {1}", conv.out_channels, cost.output);
    table.add_row(["output", &size]);
    table.add_row(["parameters", &grouped(cost.params)]);
    table.add_row(["multiply-accumulates", &grouped(cost.macs)]);
    report::print(table)
}

fn fields(layers: &[String], common: &Common) -> Result<()> {
    let windows: Vec<Window> = layers.iter().map(|l| window(l)).collect::<Result<_>>()?;
    let steps = receptive_field(&windows)?;
    if common.json {
        return report::print_json(&json!({ "layers": steps }));
    }
    let mut table = report::table(&["layer", "receptive field", "jump"]);
    for (layer, step) in layers.iter().zip(&steps) {
        table.add_row([layer.clone(), step.size.to_string(), step.jump.to_string()]);
    }
    report::print(table)
}

/// `3,1` or `3,1,2`: kernel, stride, dilation.
fn window(layer: &str) -> Result<Window> {
    let numbers: Vec<usize> = layer
        .split(',')
        .map(|n| n.trim().parse())
        .collect::<Result<_, _>>()
        .with_context(|| format!("layer '{layer}' is not KERNEL,STRIDE[,DILATION]"))?;
    let (kernel, stride, dilation) = match numbers[..] {
        [kernel, stride] => (kernel, stride, 1),
        [kernel, stride, dilation] => (kernel, stride, dilation),
        _ => bail!("layer '{layer}' is not KERNEL,STRIDE[,DILATION]"),
    };
    Ok(Window {
        kernel,
        stride,
        padding: 0,
        dilation,
    })
}

fn separable(kernel: usize, inputs: usize, outputs: usize, common: &Common) -> Result<()> {
    let cost = separable_cost(kernel, inputs, outputs)?;
    if common.json {
        return report::print_json(&cost);
    }
    let mut table = report::table(&["convolution", "parameters"]);
    table.add_row(["standard", &grouped(cost.standard)]);
    table.add_row(["depthwise separable", &grouped(cost.separable)]);
    report::print(table)?;
    report::print(format!(
        "saved: {:.1} % of parameters and multiply-accumulates",
        cost.saved * 100.0
    ))?;
    Ok(())
}
