//! afflux-dataflow
