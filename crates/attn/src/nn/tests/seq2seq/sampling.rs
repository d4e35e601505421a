//! Scheduled sampling.

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor};

use crate::nn::seq2seq::{
    AlignmentScore, AttendingDecoder, AttendingDecoderConfig, AttentionStyle, Memory, SampledOutput, ScheduledSampling,
};
use crate::nn::tests::{assert_close, noise, reference_device, shaken};

/// A decoder over a vocabulary of 6 with its embedding and projection.
struct Model {
    decoder: AttendingDecoder,
    table: Tensor<2>,
    projection: Tensor<2>,
    memory: Memory,
}

impl Model {
    fn new(device: &Device, batch: usize) -> Self {
        let config = AttendingDecoderConfig::new(3, 4, 4)
            .with_score(AlignmentScore::ScaledDot)
            .with_style(AttentionStyle::Luong);
        Self {
            decoder: shaken(config.init(device).unwrap()),
            table: noise([6, 3], 5, device),
            projection: noise([4, 6], 6, device).mul_scalar(3.0),
            memory: Memory::new(noise([1, 5, 4], 7, device).repeat_dim(0, batch)),
        }
    }

    fn run(&self, tokens: &Tensor<2, Int>, probability: f64, sample: bool) -> SampledOutput {
        let mut state = self.decoder.start(&self.memory, None).unwrap().with_weights();
        let embed = |tokens: Tensor<2, Int>| {
            let [batch, steps] = tokens.dims();
            self.table.clone().select(0, tokens.reshape([batch * steps])).reshape([batch, steps, 3])
        };
        let project = |out: Tensor<3>| out.matmul(self.projection.clone().unsqueeze());
        let sampling = ScheduledSampling::new(probability).with_sample(sample);
        self.decoder.forward_sampled(tokens.clone(), embed, project, &sampling, &mut state).unwrap()
    }
}

fn ints(tensor: Tensor<2, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

fn tokens(batch: usize, device: &Device) -> Tensor<2, Int> {
    Tensor::<1, Int>::arange(0..(batch * 4) as i64, device).remainder_scalar(6).reshape([batch, 4])
}

#[test]
fn probability_0_is_teacher_forcing_and_a_tiny_one_feeds_the_same() {
    let device = reference_device();
    let (model, tokens) = (Model::new(&device, 2), tokens(2, &device));
    let forced = model.run(&tokens, 0.0, true);
    assert_eq!(ints(forced.fed), ints(tokens.clone()));
    let stepwise = model.run(&tokens, 1e-30, true);
    assert_close(stepwise.logits, forced.logits, 1e-5);
    assert_close(stepwise.weights.unwrap(), forced.weights.unwrap(), 1e-6);
}

#[test]
fn probability_1_feeds_the_most_probable_token_of_the_step_before() {
    let device = reference_device();
    let (model, tokens) = (Model::new(&device, 2), tokens(2, &device));
    let output = model.run(&tokens, 1.0, false);
    let (fed, best) = (ints(output.fed.clone()), ints(output.logits.clone().argmax(2).reshape([2, 4])));
    for row in 0..2 {
        assert_eq!(fed[row * 4], ints(tokens.clone())[row * 4]);
        assert_eq!(fed[row * 4 + 1..][..3], best[row * 4..][..3]);
    }
    // Teacher forcing with those tokens is the same run.
    assert_close(model.run(&output.fed, 0.0, false).logits, output.logits, 1e-5);
}

#[test]
fn draws_follow_the_distribution_and_the_coin_its_probability() {
    let device = reference_device();
    device.seed(3);
    let rows = 4000;
    let model = Model::new(&device, rows);
    let same = Tensor::<2, Int>::zeros([rows, 2], &device).add_scalar(5);
    let drawn = model.run(&same, 1.0, true);
    let wanted = burn::tensor::activation::softmax(drawn.logits.narrow(1, 0, 1).narrow(0, 0, 1), 2);
    let wanted: Vec<f64> = wanted.into_data().iter::<f64>().collect();
    let fed = ints(drawn.fed.narrow(1, 1, 1));
    for (token, wanted) in wanted.into_iter().enumerate() {
        let found = fed.iter().filter(|&&fed| fed == token as i64).count() as f64 / rows as f64;
        // Five standard deviations of a frequency.
        let tolerance = 5.0 * (wanted * (1.0 - wanted) / rows as f64).sqrt();
        assert!((found - wanted).abs() <= tolerance, "token {token}: {found} in place of {wanted}");
    }
    let mixed = model.run(&same, 0.3, false);
    let best = ints(mixed.logits.narrow(1, 0, 1).narrow(0, 0, 1).argmax(2).reshape([1, 1]))[0];
    assert_ne!(best, 5, "the test needs an own token that is not the true one");
    let own = ints(mixed.fed.narrow(1, 1, 1)).into_iter().filter(|&fed| fed == best).count() as f64 / rows as f64;
    assert!((own - 0.3).abs() <= 5.0 * (0.3 * 0.7 / rows as f64).sqrt(), "{own} in place of 0.3");
}

#[test]
fn training_goes_through_the_tokens_that_were_fed() {
    let device = reference_device().autodiff();
    let mut model = Model::new(&device, 2);
    let table = Param::from_tensor(model.table.clone());
    model.table = table.val();
    let output = model.run(&tokens(2, &device), 0.5, true);
    let gradients = output.logits.powi_scalar(2).sum().backward();
    let grad = table.val().grad(&gradients).unwrap();
    assert!(grad.abs().max().into_scalar::<f32>() > 1e-4);
    assert_eq!(output.fed.dims(), [2, 4]);
}

#[test]
fn wrong_input_names_the_argument() {
    let device = reference_device();
    let (model, tokens) = (Model::new(&device, 2), tokens(2, &device));
    let run = |probability, features: usize, vocabulary: usize| {
        let mut state = model.decoder.start(&model.memory, None).unwrap();
        let embed = |tokens: Tensor<2, Int>| Tensor::<3>::zeros([2, tokens.dims()[1], features], &device);
        let project = |out: Tensor<3>| Tensor::<3>::zeros([2, out.dims()[1], vocabulary], &device);
        let sampling = ScheduledSampling::new(probability);
        let made = model.decoder.forward_sampled(tokens.clone(), embed, project, &sampling, &mut state);
        made.map(|_| ()).map_err(|error| error.argument())
    };
    assert_eq!(run(0.5, 3, 6), Ok(()));
    assert_eq!(run(1.5, 3, 6), Err(Some("probability")));
    assert_eq!(run(f64::NAN, 3, 6), Err(Some("probability")));
    for probability in [0.0, 0.5] {
        assert_eq!(run(probability, 4, 6), Err(Some("input")));
        assert_eq!(run(probability, 3, 0), Err(Some("logits")));
    }
}
