//! The verifier: broken files, wrong answers made on purpose, folders with other files in them, and what the program says.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use attn_testing::case::{Case, Fault};
use attn_testing::engine::refer;
use attn_testing::generate::Recipe;
use attn_testing::host::{Ask, Dims};
use burn::tensor::FloatDType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

/// A case file before it is written: the tensors' bytes and the metadata.
struct Draft {
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
}

impl Draft {
    /// A right case with a bias, sinks, lengths and gradients.
    fn new() -> Self {
        let dims = Dims { batch: 2, heads: 2, kv_heads: 1, query_len: 3, key_len: 4, head_dim: 5, value_dim: 6 };
        let recipe = Recipe {
            dims,
            spec: Default::default(),
            mask: None,
            bias: Some(attn_testing::generate::BiasRecipe { full: [false, true, true, true], hides: 0.1 }),
            alibi: false,
            sinks: true,
            kv_lens: true,
            blocks: None,
            relative: None,
            score_mod: false,
            poison: false,
            grad_lse: false,
            size: 1.0,
            layouts: Default::default(),
            seed: 7,
        };
        let (problem, upstream) = (recipe.build(FloatDType::F32), recipe.upstream());
        let ask = Ask { lse: true, weights: true, gradients: Some(upstream.clone()) };
        let answer = refer(&problem, &ask).expect("a valid problem");
        let inputs = &problem.inputs;
        let bias = inputs.bias.clone().expect("it has one");
        let mut draft = Self { tensors: BTreeMap::new(), metadata: HashMap::new() };
        draft.floats("q", &dims.query(), &inputs.query);
        draft.floats("k", &dims.key(), &inputs.key);
        draft.floats("v", &dims.value(), &inputs.value);
        draft.floats("bias", &bias.shape, &bias.data);
        draft.floats("sinks", &[dims.heads], inputs.sinks.as_deref().expect("it has them"));
        draft.floats("grad_out", &dims.out(), &upstream.grad_out);
        let shapes: [(&str, Vec<usize>); 8] = [
            ("out", dims.out().into()),
            ("lse", dims.rows().into()),
            ("weights", dims.scores().into()),
            ("dq", dims.query().into()),
            ("dk", dims.key().into()),
            ("dv", dims.value().into()),
            ("dbias", bias.shape.into()),
            ("dsinks", vec![dims.heads]),
        ];
        for (name, shape) in &shapes {
            draft.floats(name, shape, answer.get(name).expect("asked for"));
        }
        let lens = problem.kv_lens.expect("it has them");
        let lens = lens.iter().flat_map(|len| i32::try_from(*len).expect("small").to_le_bytes()).collect();
        draft.tensors.insert("kv_lens".into(), (Dtype::I32, vec![dims.batch], lens));
        let tolerances: Vec<String> = shapes.iter().map(|(name, _)| format!("\"{name}\": 1e-5")).collect();
        draft.set("format", "attn-case-1").set("source", "a test").set("spec", "{}");
        draft.set("tol", &format!("{{{}}}", tolerances.join(", ")));
        draft
    }

    fn floats(&mut self, name: &str, shape: &[usize], data: &[f64]) -> &mut Self {
        let bytes = data.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect();
        self.tensors.insert(name.into(), (Dtype::F32, shape.to_vec(), bytes));
        self
    }

    fn set(&mut self, key: &str, value: &str) -> &mut Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    fn without(&mut self, name: &str) -> &mut Self {
        self.tensors.remove(name);
        self.metadata.remove(name);
        self
    }

    /// Adds to one element of an f32 tensor.
    fn nudge(&mut self, name: &str, at: usize, by: f32) -> &mut Self {
        let bytes = &mut self.tensors.get_mut(name).expect("it is there").2[at * 4..][..4];
        let value = f32::from_le_bytes(bytes.try_into().expect("four bytes")) + by;
        bytes.copy_from_slice(&value.to_le_bytes());
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let view = |(dtype, shape, bytes): &'_ (Dtype, Vec<usize>, Vec<u8>)| (*dtype, shape.clone(), bytes.clone());
        let owned: Vec<_> = self.tensors.iter().map(|(name, tensor)| (name.clone(), view(tensor))).collect();
        let views = owned.iter().map(|(name, (dtype, shape, bytes))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).expect("bytes fit the shape"))
        });
        safetensors::serialize(views, Some(self.metadata.clone())).expect("it serialises")
    }

    fn write(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, name, &self.bytes())
    }
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the folder is there");
    path
}

/// An empty folder of that test's own.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("verifier").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the target folder takes files");
    folder
}

/// What the program says: exit code, and the lines on standard output.
fn verify(arguments: &[&str], paths: &[&Path]) -> (i32, Vec<String>) {
    let Output { status, stdout, .. } = Command::new(env!("CARGO_BIN_EXE_attn-verify"))
        .args(arguments)
        .args(paths)
        .output()
        .expect("the program starts");
    let lines = String::from_utf8_lossy(&stdout).lines().map(str::to_string).collect();
    (status.code().unwrap_or(-1), lines)
}

fn fault(draft: &Draft) -> Fault {
    let path = write(&folder("fault"), &format!("{:?}.safetensors", std::thread::current().id()), &draft.bytes());
    let error = Case::read(&path).map(|_| ()).expect_err("the draft is broken");
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
    error.fault
}

#[test]
fn right_cases_pass_and_other_files_are_left_alone() {
    let folder = folder("right");
    Draft::new().write(&folder, "plain-001.safetensors");
    Draft::new().floats("extra", &[1], &[f64::NAN]).set("author", "x").write(&folder, "odd-name.safetensors");
    write(&folder, "README.md", b"# Cases");
    let (code, lines) = verify(&["--backend", "reference"], &[&folder]);
    assert_eq!((code, lines.last().map(String::as_str)), (0, Some("2 passed, 0 failed, 0 skipped")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("plain ")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.trim_start().starts_with("odd-name ")), "{lines:#?}");
}

/// A bias or mask of fewer than four axes broadcasts from the last, and its gradient has its own shape.
#[test]
fn fewer_axes_broadcast_from_the_last() {
    let folder = folder("axes");
    let reshaped = |axes: usize| {
        let mut draft = Draft::new();
        for name in ["bias", "dbias"] {
            let shape = &mut draft.tensors.get_mut(name).expect("it is there").1;
            assert_eq!(*shape, [1, 2, 3, 4]);
            *shape = shape.split_off(4 - axes);
        }
        draft.tensors.insert("keep_mask".into(), (Dtype::U8, vec![3, 4], vec![1; 12]));
        draft
    };
    let path = reshaped(3).write(&folder, "three-1.safetensors");
    assert_eq!(verify(&["--backend", "reference"], &[&path]).0, 0);
    let path = reshaped(3).nudge("dbias", 23, 3e-4).write(&folder, "wrong-1.safetensors");
    assert_eq!(verify(&["--backend", "reference"], &[&path]).0, 1);
    let wide = fault(Draft::new().floats("bias", &[1, 1, 2, 3, 4], &[0.0; 24]));
    assert!(matches!(wide, Fault::Shape { name: "bias", .. }), "{wide}");
}

#[test]
fn a_wrong_answer_fails_with_its_figures() {
    let folder = folder("wrong");
    Draft::new().write(&folder, "good-1.safetensors");
    let wrong = Draft::new().nudge("out", 7, 0.25).nudge("dk", 39, -0.5).write(&folder, "wrong-1.safetensors");
    let (code, lines) = verify(&["--backend", "reference"], &[&folder]);
    assert_eq!((code, lines.last().map(String::as_str)), (1, Some("1 passed, 1 failed, 0 skipped")), "{lines:#?}");
    assert!(lines.contains(&"FAILED wrong-1 on reference".to_string()), "{lines:#?}");
    let figures = |name: &str, error: &str, index: &str| {
        let line = lines.iter().find(|line| line.trim_start().starts_with(&format!("{name}:"))).expect("it is said");
        assert!(line.contains(error) && line.contains("tolerance 1.000e-5") && line.contains(index), "{line}");
    };
    figures("out", "error 2.500e-1", "[0, 0, 1, 1]");
    figures("dk", "error 5.000e-1", "[1, 0, 3, 4]");
    assert!(!lines.iter().any(|line| line.trim_start().starts_with("lse:")), "{lines:#?}");
    // Without gradients the output is still wrong; alone, wrong gradients then pass.
    assert_eq!(verify(&["--backend", "reference", "--no-grad"], &[&wrong]).0, 1);
    Draft::new().nudge("dk", 39, -0.5).write(&folder, "wrong-1.safetensors");
    assert_eq!(verify(&["--backend", "reference", "--no-grad"], &[&wrong]).0, 0);
    assert_eq!(verify(&["--backend", "reference"], &[&wrong]).0, 1);
}

#[test]
fn each_expected_tensor_is_compared() {
    let folder = folder("each");
    for name in ["out", "lse", "weights", "dq", "dk", "dv", "dbias", "dsinks"] {
        let path = Draft::new().nudge(name, 1, 3e-4).write(&folder, "case.safetensors");
        let (code, lines) = verify(&["--backend", "reference"], &[&path]);
        assert_eq!(code, 1, "{name}");
        let wrong: Vec<_> = lines.iter().filter_map(|line| line.trim_start().split_once(": error ")).collect();
        assert!(
            matches!(wrong[..], [(named, figures)] if named == name && figures.starts_with(['2', '3'])),
            "{lines:#?}"
        );
    }
}

#[test]
fn a_broken_file_is_named_and_the_others_run() {
    let folder = folder("broken");
    let good = Draft::new();
    good.write(&folder, "good-1.safetensors");
    write(&folder, "short-1.safetensors", b"abc");
    write(&folder, "text-1.safetensors", b"This is no tensor at all, just prose.");
    write(&folder, "cut-1.safetensors", &good.bytes()[..good.bytes().len() - 9]);
    write(&folder, "cut-2.safetensors", &good.bytes()[..100]);
    let missing = folder.join("nowhere-1.safetensors");
    let (code, lines) = verify(&["--backend", "reference"], &[&folder, &missing]);
    assert_eq!((code, lines.last().map(String::as_str)), (1, Some("1 passed, 5 failed, 0 skipped")), "{lines:#?}");
    for (name, words) in [
        ("short-1", "not a safetensors file"),
        ("text-1", "not a safetensors file"),
        ("cut-1", "truncated"),
        ("cut-2", "truncated"),
        ("nowhere-1", "cannot be read"),
    ] {
        let said = lines.iter().any(|line| line.contains(&format!("{name}.safetensors")) && line.contains(words));
        assert!(said, "{name}: {lines:#?}");
    }
}

#[test]
fn nothing_to_run_is_a_failure() {
    let empty = folder("empty");
    write(&empty, "notes.txt", b"nothing here");
    let (code, lines) = verify(&["--backend", "reference"], &[&empty]);
    assert_eq!(code, 1, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("holds no *.safetensors")), "{lines:#?}");
    assert_eq!(verify(&["--backend", "reference"], &[]).0, 2);
    assert_eq!(verify(&["--backend", "cudnn"], &[&empty]).0, 2);
}

#[test]
fn faults_of_metadata() {
    for key in ["format", "spec", "tol"] {
        assert_eq!(fault(Draft::new().without(key)), Fault::MissingMetadata(key));
    }
    assert_eq!(fault(Draft::new().set("format", "attn-case-2")), Fault::Format("attn-case-2".to_string()));
    assert_eq!(fault(Draft::new().set("tol", "{\"out\": 1}")), Fault::MissingTolerance("lse"));
    for (key, text) in [("spec", "{\"dropout\": 1}"), ("spec", "causal"), ("tol", "1e-5"), ("tol", "{\"out\": -1}")] {
        assert!(matches!(fault(Draft::new().set(key, text)), Fault::Json { key: named, .. } if named == key));
    }
}

#[test]
fn faults_of_tensors() {
    for name in ["q", "k", "v", "out", "grad_out"] {
        assert_eq!(fault(Draft::new().without(name)), Fault::MissingTensor(name));
    }
    for (name, shape) in [("k", [2, 1, 4, 4]), ("v", [2, 1, 3, 6]), ("out", [2, 2, 3, 5]), ("dv", [2, 2, 4, 6])] {
        let zeros = vec![0.0; shape.iter().product()];
        assert!(
            matches!(fault(Draft::new().floats(name, &shape, &zeros)), Fault::Shape { name: named, .. } if named == name)
        );
    }
    let shape = |fault: Fault| matches!(fault, Fault::Shape { name: "q", .. });
    assert!(shape(fault(Draft::new().floats("q", &[12, 5], &[0.0; 60]))));
    let mut wide = Draft::new();
    wide.tensors.insert("k".into(), (Dtype::F64, vec![2, 1, 4, 5], vec![0; 320]));
    assert!(matches!(fault(&wide), Fault::DType { name: "k", .. }));
    let mut mask = Draft::new();
    mask.tensors.insert("keep_mask".into(), (Dtype::U8, vec![1, 1, 1, 4], vec![1, 1, 7, 0]));
    assert!(matches!(fault(&mask), Fault::Value { name: "keep_mask", .. }));
    let mut lens = Draft::new();
    lens.tensors
        .insert("kv_lens".into(), (Dtype::I32, vec![2], [4i32, -1].iter().flat_map(|n| n.to_le_bytes()).collect()));
    assert!(matches!(fault(&lens), Fault::Value { name: "kv_lens", .. }));
    lens.tensors
        .insert("kv_lens".into(), (Dtype::I32, vec![2], [4i32, 5].iter().flat_map(|n| n.to_le_bytes()).collect()));
    assert!(matches!(fault(&lens), Fault::Problem(error) if error.argument() == Some("kv_lens")));
    assert!(matches!(fault(Draft::new().floats("bias", &[3, 1, 1, 1], &[0.0; 3])), Fault::Problem(_)));
    assert!(matches!(fault(Draft::new().set("spec", "{\"softcap\": 0}")), Fault::Problem(_)));
}

/// NdArray has no f16: a case in it is skipped there and said, and runs elsewhere.
#[cfg(feature = "ndarray")]
#[test]
fn a_type_that_a_backend_lacks_is_skipped() {
    use half::f16;

    let mut draft = Draft::new();
    for name in ["q", "k", "v", "bias", "sinks"] {
        let (dtype, _, bytes) = draft.tensors.get_mut(name).expect("it is there");
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        *bytes = bytes.chunks(4).flat_map(|bytes| f16::from_f32(value(bytes)).to_le_bytes()).collect();
        *dtype = Dtype::F16;
    }
    let tolerance = draft.metadata["tol"].replace("1e-5", "0.02");
    let path = draft.set("tol", &tolerance).write(&folder("skipped"), "low-1.safetensors");
    let (code, lines) = verify(&["--backend", "ndarray", "--backend", "reference"], &[&path]);
    assert_eq!((code, lines.last().map(String::as_str)), (0, Some("1 passed, 0 failed, 1 skipped")), "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("skipped 1 on ndarray: it has no F16 tensors")), "{lines:#?}");
}
