// The ops this library gives PyTorch for CPU tensors; what each computes stands in the file of its name.

#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace mae_fast {

std::tuple<at::Tensor, at::Tensor, at::Tensor> random_masking(const at::Tensor& noise, int64_t len_keep);
at::Tensor gather_patches(const at::Tensor& imgs, const at::Tensor& ids, int64_t patch, at::ArrayRef<double> mean,
                          at::ArrayRef<double> std, at::ScalarType dtype);
at::Tensor gather_patches_backward(const at::Tensor& grad, const at::Tensor& ids, int64_t patch, at::IntArrayRef size,
                                   at::ScalarType dtype);
at::Tensor unshuffle(const at::Tensor& tokens, const at::Tensor& mask_token, const at::Tensor& pos_embed,
                     const at::Tensor& ids_restore);
std::tuple<at::Tensor, at::Tensor, at::Tensor> unshuffle_backward(const at::Tensor& grad, const at::Tensor& ids_restore,
                                                                  int64_t num_tokens, at::ScalarType dtype,
                                                                  bool need_mask, bool need_pos);
std::tuple<at::Tensor, at::Tensor> masked_mse(const at::Tensor& pred, const at::Tensor& imgs, const at::Tensor& ids,
                                              int64_t patch, at::ArrayRef<double> mean, at::ArrayRef<double> std,
                                              bool norm_pix, bool with_grad);
at::Tensor masked_mse_backward(const at::Tensor& residual, const at::Tensor& ids, const at::Tensor& grad_loss,
                               int64_t num_rows);
std::tuple<at::Tensor, at::Tensor> attention(const at::Tensor& qkv);
at::Tensor attention_backward(const at::Tensor& grad, const at::Tensor& qkv, const at::Tensor& out,
                              const at::Tensor& lse);
at::Tensor bias_gelu(const at::Tensor& x, const at::Tensor& bias);
std::tuple<at::Tensor, at::Tensor> bias_gelu_backward(const at::Tensor& grad, const at::Tensor& x,
                                                      const at::Tensor& bias);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> add_layer_norm(const at::Tensor& x,
                                                                          const std::optional<at::Tensor>& y,
                                                                          const at::Tensor& weight,
                                                                          const at::Tensor& bias, double eps,
                                                                          at::ScalarType dtype);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> add_layer_norm_backward(
    const std::optional<at::Tensor>& grad_s, const at::Tensor& grad_out, const at::Tensor& s, const at::Tensor& weight,
    const at::Tensor& mean, const at::Tensor& rstd, bool need_y);

}  // namespace mae_fast
